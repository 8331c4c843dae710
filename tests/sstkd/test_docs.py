"""docs/sstkd.md states how well each hyper-parameter is confirmed, as the code does, and its example runs."""

import inspect
import re
from pathlib import Path

import torch

from harness.distillers.sstkd import SSTKD
from sstkd import TextureHead

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
    assert unmarked == ["graph_weights", "graph_sha256", "embedding_sha256"], "files have no provenance"


def test_sizes_of_the_modules_are_those_of_the_code() -> None:
    with torch.device("meta"):
        head = TextureHead(768, 19, structural_embedding=331, statistical_embedding=517)
    parts = head.structural_embedding, head.statistical_embedding
    sizes = [sum(p.numel() for p in part.parameters()) for part in parts if part is not None]
    macs = [sum(p.numel() for p in part.parameters() if p.ndim == 4) * 64 * 128 for part in parts if part is not None]
    text = " ".join(PAGE.split())
    assert f"it has {sizes[0] / 1e6:.2f} M and {sizes[1] / 1e6:.2f} M parameters" in text
    assert f"{macs[0] / 1e9:.1f} and {macs[1] / 1e9:.1f} G MACs" in text
    assert f"{sum(p.numel() for p in head.graph.parameters()) / 1e3:.1f} thousand, frozen" in text


def test_the_example_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "docs/sstkd.md", "exec"), names)
    assert set(names["terms"]) == {"response", "structural", "statistical", "adversarial", "critic"}  # type: ignore[call-overload]


def test_its_pictures_exist() -> None:
    for name in re.findall(r"\]\((assets/[^)]+)\)", PAGE):
        assert (Path(__file__).parents[2] / "docs" / name).is_file(), name
