"""Which package may import which: one row each, imports inside functions included.

A package without a row fails: say where it belongs before it grows.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES, MAX_FUNCTION_LINES = 400, 115  # without the docstring; the training loop is one page

WORDS = "harness harness.borders harness.errors harness.files harness.metrics harness.seeds harness.taps"  # what everybody may import
# A package's modules may import each other; beyond that: modules of the project, and other packages.
# Everything below a name that is listed may be imported too, but for "harness" itself.
RULES: dict[str, tuple[str, str]] = {
    "sstkd": ("", "torch numpy"),
    "harness": ("", "torch numpy"),
    "harness.experiment": ("", "pydantic yaml"),
    "harness.datasets": ("harness.experiment", "torch numpy PIL cv2 skimage pyarrow pydantic scipy yaml"),
    "harness.models": (
        "harness.experiment",
        "torch torchvision numpy timm segmentation_models_pytorch safetensors huggingface_hub",
    ),
    "harness.distillers": ("harness.models.weights sstkd", "torch"),
    "harness.results": ("harness.experiment", "numpy pyarrow pydantic"),
    "harness.training": (
        "harness.experiment harness.datasets harness.models harness.distillers harness.results sstkd",
        "torch numpy cv2 PIL segmentation_models_pytorch",  # losses
    ),
    "harness.execution": (
        "harness.experiment harness.datasets harness.results harness.training",
        "ray torch numpy cv2 pyarrow",
    ),
    "harness.search": (
        "harness.experiment harness.results harness.training harness.execution",
        "ray torch numpy scipy pyarrow",
    ),
    "harness.analysis": ("harness.experiment harness.results", "numpy scipy pyarrow"),
    "harness.papers": ("harness.experiment harness.analysis", "numpy pyarrow"),
    "harness.report": (
        "harness.experiment harness.results harness.analysis harness.papers harness.search.outcome "
        "harness.search.tuning_curve",
        "numpy scipy matplotlib PIL rich",
    ),
    "harness.deployment": (
        "harness.experiment harness.datasets harness.models harness.results harness.training harness.analysis",
        "torch numpy timm safetensors onnx onnxruntime openvino nncf executorch torchao huggingface_hub",
    ),
    "harness.cluster": ("harness.experiment harness.results", "ray yaml"),
    "harness.testing": (
        "harness.experiment harness.datasets harness.models harness.distillers harness.training",
        "torch numpy",
    ),
    "harness.bench": (
        "harness.experiment harness.datasets harness.models harness.results harness.training harness.execution "
        "harness.search harness.analysis harness.report",
        "",
    ),
    "harness.cli": (
        "harness.experiment harness.results harness.analysis harness.report harness.execution.status harness.training.progress",
        "typer rich",
    ),
}
# Functions that may import what their package may not, because it is slow or missing on some machines.
FREE: dict[str, dict[str, set[str]]] = {
    # A table can print itself; what it prints is the report's.
    "harness.analysis.tables": {
        f"Table.{form}": {"harness.report.formats"}
        for form in ("to_markdown", "to_latex", "to_html", "to_csv", "_repr_html_")
    },
    "harness.training.runtime": {"Runtime.ray_worker": {"ray"}},
    "harness.execution.loggers": {
        "wandb": {"wandb"},
        **{f: {"mlflow"} for f in ("mlflow", "_mlflow_on_server", "_mlflow_in_files", "_mlflow_experiment")},
    },
    "harness.search.algorithms": {f: {"optuna"} for f in ("require_optuna", "proposals", "_sampler", "_distributions")},
}
HEAVY = {"torch", "torchvision", "ray", "timm", "matplotlib"}
LIGHT = ("experiment", "results", "analysis", "papers", "cluster", "cli", "report")  # import without them, file by file
DRAWING = "harness.report.plots"  # imported by functions only


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted([*(ROOT / "harness").rglob("*.py"), *(ROOT / "sstkd").rglob("*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def package(module: str) -> str:
    """The room a module is in: `harness.results` of `harness.results.store`; `bench` is one of its own."""
    parts = module.split(".")
    if parts[0] == "harness" and len(parts) > 1:
        room = ".".join(parts[:2])
        return "harness" if room in WORDS.split() else room
    return parts[0]


def imports(source: str, module: str = "x") -> list[tuple[str, str]]:
    """(imported module, qualified name of the function around it or "") of every import that runs."""
    found: list[tuple[str, str]] = []

    def visit(node: ast.AST, scope: tuple[str, ...], inside: bool) -> None:
        where = ".".join(scope) if inside else ""
        if isinstance(node, ast.Import):
            found.extend((alias.name, where) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write the full name instead of {'.' * node.level}{node.module or ''}"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.append((full if full in MODULES else str(node.module), where))
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for child in node.orelse:
                visit(child, scope, inside)
        else:
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            below = (*scope, node.name) if function or isinstance(node, ast.ClassDef) else scope
            for child in ast.iter_child_nodes(node):
                visit(child, below, inside or function)

    visit(ast.parse(source), (), False)
    return found


def allowed(name: str, module: str, room: str) -> bool:
    """Whether a module of a room may import a module of the project."""
    own = RULES[room][0].split()
    if room == "harness.distillers" and name.startswith("harness.distillers"):
        # A method is a file of its own: it knows the common pieces and no other method.
        last = name.rpartition(".")[2]
        return module == "harness.distillers" or last == "base" or last.startswith("_")
    if (name in WORDS.split() and room != "sstkd") or package(name) == room != "harness":
        return True
    return any(name == o or name.startswith(f"{o}.") for o in own)


def violations(module: str, source: str) -> list[str]:
    room = package(module)
    if room not in RULES:
        return [f"{module}: {room} has no rule"]
    wrong = []
    for name, where in imports(source, module):
        top = name.partition(".")[0]
        free = FREE.get(module, {}).get(where, ())
        # The commands load what they need when they are called: everything, inside the functions.
        if top in sys.stdlib_module_names or top in free or name in free or (room == "harness.cli" and where):
            continue
        fine = allowed(name, module, room) if top in ("harness", "sstkd") else top in RULES[room][1].split()
        if not fine:
            wrong.append(f"{module} imports {name}" + (f" in {where}" if where else ""))
    return wrong


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_package_may(module: str) -> None:
    assert violations(module, MODULES[module].read_text()) == []


def test_every_rule_is_about_a_package_that_exists() -> None:
    assert RULES.keys() - {package(module) for module in MODULES} == set()


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("harness.newcomer", "", "has no rule"),
        ("harness.seeds", "import ray", "imports ray"),
        ("harness.taps", "from harness.models import build", "imports harness.models"),
        ("sstkd.newcomer", "import timm", "imports timm"),
        ("sstkd.cdm", "from harness import taps", "imports harness.taps"),
        ("harness.distillers.kd", "from harness.distillers.cwd import CWD", "imports harness.distillers.cwd"),
        ("harness.distillers.kd", "from harness.distillers import CWD", "imports harness.distillers"),
        ("harness.distillers.kd", "from harness.distillers import cwd", "imports harness.distillers.cwd"),
        ("harness.distillers.newcomer", "from harness.experiment.spec import Run", "imports harness.experiment.spec"),
        ("harness.distillers.newcomer", "from harness.models import build", "imports harness.models"),
        ("harness.training.loop", "def f():\n    import ray", "imports ray in f"),
        ("harness.training.runtime", "import ray", "imports ray"),
        (
            "harness.training.runtime",
            "class Runtime:\n    def local(cls):\n        import ray.train",
            "in Runtime.local",
        ),
        ("harness.training.loop", "from harness.execution import queue", "imports harness.execution.queue"),
        ("harness.models.segnet", "from harness.training.loop import train", "imports harness.training.loop"),
        ("harness.datasets.newcomer", "import ray.data", "imports ray.data"),
        ("harness.experiment.spec", "import torch", "imports torch"),
        ("harness.experiment.spec", "try:\n    import torch\nexcept ImportError:\n    pass", "imports torch"),
        ("harness.results.store", "from harness.report import write", "imports harness.report.write"),
        ("harness.report.write", "from harness.search import tuner", "imports harness.search.tuner"),
        ("harness.cluster.job", "from harness.execution import queue", "imports harness.execution.queue"),
        ("harness.cli.app", "import torch", "imports torch"),
        ("harness.cli.app", "class A:\n    import torch", "imports torch"),
        ("harness.cli.run", "from harness.training import loop", "imports harness.training.loop"),
    ],
)
def test_the_check_sees(module: str, source: str, wrong: str) -> None:
    found = violations(module, source)
    assert len(found) == 1 and wrong in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("harness.cli.run", "def f():\n    import torch, ray\n    from harness.execution.launcher import run_all"),
        ("harness.training.runtime", "class Runtime:\n    def ray_worker(cls):\n        import ray.train"),
        ("harness.distillers.newcomer", "from harness.distillers._ops import match_size\nimport torch.nn.functional"),
        (
            "harness.report.console",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from harness.execution.launcher import run_all",
        ),
        ("harness.datasets.newcomer", "from harness.datasets.base import Data\nimport json, cv2"),
        ("harness.report.newcomer", "from harness.search.outcome import Outcome"),
    ],
)
def test_the_check_allows(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports inside functions included."""
    edges = {m: {n for n, _ in imports(p.read_text(), m) if n in MODULES and n != m} for m, p in MODULES.items()}
    left = dict(edges)
    while ready := [m for m in left if not left[m] & left.keys()]:
        for module in ready:
            del left[module]
    assert left == {}


def test_light_packages_import_without_heavy_libraries() -> None:
    names = [m for m in MODULES if m.startswith(tuple(f"harness.{name}" for name in LIGHT)) and "__main__" not in m]
    light = [m for m in names if not m.startswith(DRAWING)]
    code = f"import sys, {', '.join(light)}; print(*sorted({HEAVY} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def docstring(function: ast.AST) -> list[str]:
    """Its lines."""
    text = ast.get_docstring(function, clean=False)
    return [] if text is None else text.splitlines()


@pytest.mark.parametrize("module", MODULES)
def test_a_file_can_be_read_in_one_sitting(module: str) -> None:
    source = MODULES[module].read_text()
    assert len(source.splitlines()) <= MAX_LINES
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lines = {f.name: f.end_lineno - f.lineno + 1 - len(docstring(f)) for f in functions}
    assert {name: count for name, count in lines.items() if count > MAX_FUNCTION_LINES} == {}
