"""The public API: its names, that it is lazy, and that the examples of its docstrings run."""

import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import harness
from tests.support.rows import with_opencv_5

ROOT = Path(__file__).parent.parent
CALLED = (
    "Bench",
    "Distiller",
    "Table",
    "compare",
    "load",
    "load_student",
    "read_rows",
    "train",
)  # the others are what these give and take


@pytest.mark.torch
def test_all_is_what_can_be_imported() -> None:
    assert sorted(harness.__all__) == sorted({"__version__", *harness._HOMES})
    for name in harness.__all__:
        assert getattr(harness, name) is not None and name in dir(harness)


def test_a_name_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'benches'; it has: .*Bench"):
        _ = harness.benches


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, harness; dir(harness); print(*sorted({'torch', 'ray', 'pyarrow', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


@with_opencv_5
def test_looking_at_results_loads_no_torch() -> None:
    code = (
        "import sys, harness\n"
        "bench = harness.Bench(harness.load('experiments/quickstart.yaml'), 'results/examples')\n"
        "print(bench.table().to_markdown(), bench.pending(), bench.states(), harness.read_rows('results/examples/quickstart'))\n"
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


@pytest.mark.torch
@pytest.mark.parametrize("name", [name for name in harness.__all__ if not (name.isupper() or name == "__version__")])
def test_it_says_what_it_is(name: str) -> None:
    assert len(getattr(harness, name).__doc__ or "") > 20, "of its own, not inherited"


@pytest.mark.torch
@pytest.mark.parametrize("name", CALLED)
def test_its_example_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    public = getattr(harness, name)
    module = importlib.import_module(harness._HOMES[name])
    text = inspect.getdoc(public) or ""
    examples = doctest.DocTestParser().get_doctest(text, {"harness": harness}, name, module.__file__, 0)
    assert examples.examples, f"harness.{name} has no example"
    assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(examples).failed == 0


def test_the_docs_list_the_same_names() -> None:
    page = (ROOT / "docs" / "api.md").read_text().partition("## Names")[2]
    assert sorted(re.findall(r"`(\w+)`", page.partition("\n\n")[2])) == sorted(harness.__all__)


@pytest.mark.parametrize("given", ["experiments/quickstart.yaml", None, {}])
def test_a_bench_wants_an_experiment(given: object) -> None:
    with pytest.raises(ValueError, match=r"an Experiment is needed: harness\.load\(FILE\) reads one"):
        harness.Bench(given)  # type: ignore[arg-type]
