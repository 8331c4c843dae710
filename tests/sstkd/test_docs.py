"""docs/sstkd.md states how well each hyper-parameter is confirmed, as the code does, and its example runs."""

import inspect
import re
from pathlib import Path

from harness.distillers.sstkd import SSTKD

PAGE = (Path(__file__).parents[2] / "docs" / "sstkd.md").read_text()


def test_every_parameter_is_in_the_table_with_its_default_and_provenance() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \| ([^|]*) \|", PAGE, re.MULTILINE)
    parameters = {name: p.default for name, p in inspect.signature(SSTKD).parameters.items() if name != "pair"}
    assert [name for name, _, _ in rows] == list(parameters)
    documented = " ".join((inspect.getdoc(SSTKD) or "").split())
    for name, default, confirmed in rows:
        value = parameters[name]
        text = ", ".join(map(str, value)) if isinstance(value, tuple) else "none" if value is None else str(value)
        assert default == text, name
        assert confirmed == "" or re.search(r"\b(V2?|R|I|D)\b", confirmed), name
        entry = documented[documented.index(f" {name}: ") :].split(". ", 1)[0]
        assert confirmed == "" or confirmed in entry, name
    unmarked = [name for name, _, confirmed in rows if not confirmed]
    assert unmarked == ["graph_weights", "graph_sha256"], "files have no provenance"


def test_the_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "docs/sstkd.md", "exec"), names)
    assert set(names["terms"]) == {"response", "structural", "statistical", "adversarial", "critic"}  # type: ignore[call-overload]


def test_its_pictures_exist() -> None:
    for name in re.findall(r"\]\((assets/[^)]+)\)", PAGE):
        assert (Path(__file__).parents[2] / "docs" / name).is_file(), name
