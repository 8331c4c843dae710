"""Who may import whom. A module without a rule fails: say where it belongs before it grows."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES, MAX_FUNCTION_LINES = 400, 130

# Modules of the project, then other packages. "harness.models" allows the package and everything below it.
RULES: dict[str, tuple[str, str]] = {
    "sstkd": ("sstkd", "torch numpy"),
    "harness": ("", ""),
    # The experiment file
    "harness.yamlfile": ("", "yaml"),
    "harness.signatures": ("", "pydantic"),
    "harness.seeds": ("", "numpy"),
    "harness.recipe": ("", "pydantic"),
    "harness.searchspec": ("harness.recipe", "pydantic"),
    "harness.spec": ("harness.recipe harness.searchspec harness.signatures", "pydantic"),
    "harness.space": ("harness.spec", ""),
    "harness.protocol": ("harness.recipe harness.searchspec harness.space harness.spec", ""),
    "harness.specfile": (
        "harness.files harness.recipe harness.spec harness.signatures harness.yamlfile harness.protocol",
        "pydantic",
    ),
    # Rows, and what is computed from them
    "harness.scores": ("", "numpy"),
    "harness.byseed": ("", "numpy"),
    "harness.stats": ("harness.byseed harness.scores", "numpy scipy"),
    "harness.ranking": ("harness.stats", "numpy scipy"),
    "harness.row": ("", "numpy pyarrow"),
    "harness.files": ("", ""),
    "harness.store": ("harness.files harness.row", "pyarrow"),
    "harness.packs": ("harness harness.files harness.store", "pyarrow"),
    "harness.storage": ("harness.files", "pyarrow"),
    "harness.pull": ("harness.files harness.storage harness.store", ""),
    "harness.perimage": ("harness.files", "numpy pyarrow"),
    "harness.points": (
        "harness harness.files harness.protocol harness.seeds harness.space harness.spec",
        "numpy scipy pyarrow",
    ),
    "harness.best": (
        "harness harness.files harness.points harness.protocol harness.searchspec harness.space harness.spec harness.store",
        "pyarrow",
    ),
    "harness.record": ("harness harness.spec harness.store", ""),
    "harness.tables": ("harness.stats", ""),
    "harness.matched": ("harness harness.protocol harness.recipe harness.spec harness.store", ""),
    "harness.power": ("harness.stats harness.tables", ""),
    "harness.fairness": ("harness harness.power harness.protocol harness.recipe harness.spec harness.tables", ""),
    "harness.runs": ("", "numpy pyarrow"),
    "harness.comparison": (
        "harness harness.byseed harness.fairness harness.lines harness.runs harness.stats harness.tables",
        "numpy pyarrow",
    ),
    "harness.lines": ("harness.recipe harness.tables", ""),
    "harness.imagewise": (
        "harness.perimage harness.scores harness.stats harness.tables",
        "numpy pyarrow",
    ),
    "harness.published": ("harness", ""),
    "harness.papers": ("", ""),
    "harness.papertables": (
        "harness.papers harness.published harness.runs harness.spec harness.stats",
        "numpy pyarrow",
    ),
    "harness.formats": ("harness.papertables", ""),
    "harness.across": ("harness.ranking harness.scores harness.stats harness.tables", "numpy"),
    "harness.acrossplots": ("harness.across harness.plots harness.ranking", "numpy matplotlib"),
    "harness.plots": ("harness.tables", "numpy matplotlib PIL"),
    "harness.searchplots": ("harness.best harness.plots harness.space", "numpy scipy matplotlib"),
    "harness.pagedata": ("harness.scores harness.tables", "numpy"),
    "harness.pagesamples": ("harness.plots harness.tables", "numpy PIL"),
    "harness.page": (
        "harness harness.pagedata harness.pagesamples harness.plots harness.scores harness.tables",
        "numpy matplotlib",
    ),
    "harness.report": (
        "harness harness.formats harness.imagewise harness.store harness.stats harness.tables harness.comparison harness.plots harness.page harness.terminal",
        "rich",
    ),
    # Tensors
    "harness.taps": ("", "torch numpy"),
    "harness.metrics": ("", "torch numpy cv2"),
    "harness.cost": ("", "torch numpy"),
    "harness.models": (
        "harness.models harness.files harness.taps harness.spec harness.seeds",
        "torch numpy timm segmentation_models_pytorch safetensors",
    ),
    "harness.datasets": (
        "harness.datasets harness.files harness.taps harness.spec harness.seeds harness.scores",
        "torch numpy PIL cv2 skimage pyarrow pydantic scipy yaml",
    ),
    "harness.distillers": ("harness.distillers", ""),
    "harness.distillers.base": ("harness.taps", "torch"),
    "harness.distillers._ops": ("harness.taps", "torch"),
    "harness.distillers._adversary": ("harness.distillers._ops harness.distillers.base sstkd.critic", "torch"),
    "harness.distillers._queue": ("", "torch"),
    "harness.distillers._relation": ("", "torch"),
    "harness.distillers.*": (
        "harness.distillers.base harness.distillers._adversary harness.distillers._ops harness.distillers._queue "
        "harness.distillers._relation harness.taps",
        "torch",
    ),
    "harness.distillers.sstkd": ("harness.distillers.base harness.models.weights harness.taps sstkd", "torch"),
    # Training
    "harness.parts": (
        "harness.cost harness.record harness.spec harness.signatures harness.seeds harness.store harness.models harness.datasets harness.distillers "
        "harness.taps",
        "torch numpy",
    ),
    "harness.checkpoints": ("harness.files harness.storage", "torch"),
    "harness.runtime": (
        "harness.checkpoints harness.recipe harness.spec harness.seeds harness.datasets harness.models.syncbn",
        "torch numpy cv2",
    ),
    "harness.guard": ("harness.runtime", "torch"),
    "harness.optimizers": ("harness.recipe harness.distillers", "torch"),
    "harness.evaluate": (
        "harness.recipe harness.spec harness.taps harness.metrics harness.datasets harness.runtime",
        "torch numpy",
    ),
    "harness.state": (
        "harness.cost harness.distillers harness.models harness.optimizers harness.runtime harness.spec",
        "torch",
    ),
    "harness.train": (
        "harness.record harness.spec harness.state harness.seeds harness.scores harness.taps harness.evaluate harness.perimage harness.cost "
        "harness.models harness.datasets harness.distillers harness.optimizers harness.parts harness.guard "
        "harness.runtime",
        "torch numpy PIL",
    ),
    "harness.execute": ("harness.spec harness.record harness.runtime harness.train", ""),
    "harness.loggers": ("harness.files harness.spec harness.status", ""),
    "harness.gauges": ("harness.spec harness.status", ""),
    "harness.estimate": (
        "harness.cost harness.spec harness.taps harness.models harness.datasets harness.distillers harness.parts harness.runtime",
        "torch",
    ),
    "harness.catalogue": (
        "harness harness.cost harness.distillers harness.estimate harness.models harness.parts harness.signatures "
        "harness.spec harness.specfile harness.taps",
        "torch",
    ),
    "harness.testing": (
        "harness.testing harness.checkpoints harness.distillers harness.guard harness.models harness.optimizers harness.recipe harness.runtime "
        "harness.signatures harness.spec harness.taps harness.train",
        "torch numpy",
    ),
    # Pictures of textures
    "harness.texture": (
        "harness.record harness.store harness.parts harness.datasets harness.models harness.spec harness.taps sstkd",
        "torch numpy PIL",
    ),
    "harness.textureplots": ("harness.plots harness.texture", "numpy matplotlib"),
    "harness.showtexture": ("harness harness.texture harness.textureplots sstkd", "numpy matplotlib"),
    # Clusters
    "harness.jobenv": ("", ""),
    "harness.bundle": ("", ""),
    "harness.sendrows": ("", ""),
    "harness.submit": (
        "harness harness.bundle harness.jobenv harness.protocol harness.pull harness.sendrows harness.spec harness.storage "
        "harness.store",
        "ray",
    ),
    "harness.manifests": ("harness.jobenv harness.spec harness.storage harness.submit", "yaml"),
    # Ray, and the terminal
    "harness.status": ("harness.spec", ""),
    "harness.queue": ("harness.spec", ""),
    "harness.home": (
        "harness.checkpoints harness.files harness.perimage harness.pull harness.record harness.spec harness.storage "
        "harness.store",
        "",
    ),
    "harness.board": ("", ""),
    "harness.cluster": ("harness.spec", "ray"),
    "harness.shelf": ("", "numpy ray"),
    "harness.group": ("", ""),
    "harness.workers": ("harness.cluster harness.group harness.process", ""),
    "harness.process": (
        "harness.cluster harness.cost harness.execute harness.gauges harness.group harness.home harness.loggers "
        "harness.record harness.runtime harness.shelf harness.spec harness.train",
        "torch ray",
    ),
    "harness.lanes": (
        "harness.cluster harness.group harness.queue harness.record harness.shelf harness.spec harness.workers",
        "ray",
    ),
    "harness.launch": (
        "harness.board harness.cluster harness.files harness.home harness.lanes harness.pull "
        "harness.queue harness.record harness.spec harness.status harness.store",
        "ray",
    ),
    "harness.trials": (
        "harness harness.best harness.checkpoints harness.cluster harness.execute harness.home harness.protocol "
        "harness.runtime harness.searchspec harness.shelf harness.space harness.spec harness.store",
        "torch ray",
    ),
    "harness.algorithms": ("harness.best harness.searchspec harness.seeds harness.space harness.trials", "ray"),
    "harness.search": (
        "harness harness.algorithms harness.best harness.cluster harness.home harness.points "
        "harness.protocol harness.pull harness.record harness.searchspec harness.shelf harness.space harness.spec "
        "harness.storage harness.store harness.trials",
        "ray",
    ),
    "harness.predict": (
        "harness harness.datatool harness.files harness.record harness.store harness.datasets harness.evaluate harness.models harness.parts harness.runtime harness.spec",
        "torch numpy PIL cv2",
    ),
    "harness.prepare": ("harness.cluster harness.datasets harness.files harness.spec", "torch ray cv2 pyarrow"),
    "harness.datatool": ("harness.datasets harness.spec", "numpy"),
    "harness.terminal": ("", "typer"),
    "harness.clidata": ("harness.terminal", "typer"),
    "harness.reproduce": ("harness harness.papers harness.papertables harness.tables harness.yamlfile", ""),
    "harness.clireproduce": ("harness.terminal", "typer"),
    "harness.cliresults": ("harness.terminal", "typer"),
    "harness.clisubmit": ("harness.terminal", "typer"),
    "harness.changes": ("harness.spec harness.status", ""),
    "harness.screen": ("harness.spec harness.status", "rich"),
    "harness.display": ("harness.changes harness.screen harness.spec harness.status", "rich"),
    "harness.events": ("harness.changes harness.spec harness.status harness.tables", ""),
    "harness.clirun": ("", "typer"),
    "harness.clitune": ("harness.terminal", "typer"),
    "harness.doctor": ("harness.spec harness.record", "rich"),
    "harness.clicheck": ("harness.terminal", "typer"),
    "harness.clitables": ("", ""),
    "harness.clicompare": ("harness.terminal", "typer"),
    "harness.cli": ("harness.clidata harness.cliresults harness.clisubmit harness.clitables harness.terminal", "typer"),
}
# Functions that may import what their module may not, because it is slow or missing on some machines.
FREE = {
    "harness.runtime": {"Runtime.ray_worker": {"ray"}},
    "harness.loggers": {
        "tensorboard": {"torch"},
        "wandb": {"wandb"},
        **{f: {"mlflow"} for f in ("mlflow", "_mlflow_on_server", "_mlflow_in_files", "_mlflow_experiment")},
    },
    "harness.gauges": {"Gauges.__init__": {"ray"}},
    "harness.algorithms": {f: {"optuna"} for f in ("require_optuna", "proposals", "_sampler", "_distributions")},
}
FREE_MODULES = {
    "harness.cli",
    "harness.clicheck",
    "harness.clitables",
    "harness.clidata",
    "harness.clirun",
    "harness.clicompare",
    "harness.clireproduce",
    "harness.cliresults",
    "harness.clisubmit",
    "harness.clitune",
    "harness.doctor",
    "harness.terminal",
}  # every function

LIGHT = (
    "recipe byseed imagewise lines runs packs searchspec spec space points best searchplots clitune specfile yamlfile signatures protocol seeds files storage pull status queue store row scores stats report tables comparison plots page record "
    "perimage cli clidata clireproduce cliresults clisubmit jobenv bundle sendrows submit manifests terminal display changes screen events loggers gauges clirun "
    "across acrossplots clicheck clicompare clitables fairness formats matched papers papertables power published ranking reproduce"
)


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted([*(ROOT / "harness").rglob("*.py"), *(ROOT / "sstkd").rglob("*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def rule(module: str) -> tuple[str, str] | None:
    """A module's own rule, or its shelf's; the shelves grow, the top level of harness does not without a rule."""
    shelf = module.rpartition(".")[0]
    if module in RULES:
        return RULES[module]
    if f"{shelf}.*" in RULES:
        return RULES[f"{shelf}.*"]
    return RULES.get(shelf) if shelf != "harness" else None


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


def violations(module: str, source: str) -> list[str]:
    allowed = rule(module)
    if allowed is None:
        return [f"{module} has no rule"]
    own, others = (set(text.split()) for text in allowed)
    wrong = []
    for name, where in imports(source, module):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or (where and module in FREE_MODULES):
            continue
        if top in FREE.get(module, {}).get(where, ()):
            continue
        if top in ("harness", "sstkd"):
            fine = name in own or any(name.startswith(f"{o}.") and o != "harness" for o in own)
            if module.startswith("harness.distillers") and name.startswith("harness.distillers."):
                fine = name in own or module == "harness.distillers"
        else:
            fine = top in others
        if not fine:
            wrong.append(f"{module} imports {name}" + (f" in {where}" if where else ""))
    return wrong


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_rule_allows(module: str) -> None:
    assert violations(module, MODULES[module].read_text()) == []


def test_every_rule_is_about_a_module_that_exists() -> None:
    assert {name for name in RULES if not name.endswith(".*")} - MODULES.keys() == set()


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("harness.newcomer", "", "has no rule"),
        ("sstkd.newcomer", "import timm", "imports timm"),
        ("sstkd.cdm", "from harness import taps", "imports harness.taps"),
        ("harness.distillers.kd", "from harness.distillers.cwd import CWD", "imports harness.distillers.cwd"),
        ("harness.distillers.kd", "from harness.distillers import CWD", "imports harness.distillers"),
        ("harness.distillers.kd", "from harness.distillers import cwd", "imports harness.distillers.cwd"),
        ("harness.distillers.newcomer", "import sstkd.cdm", "imports sstkd.cdm"),
        ("harness.distillers.newcomer", "from harness.spec import Run", "imports harness.spec"),
        ("harness.train", "def f():\n    import ray", "imports ray in f"),
        ("harness.runtime", "import ray", "imports ray"),
        ("harness.runtime", "class Runtime:\n    def local(cls):\n        import ray.train", "in Runtime.local"),
        ("harness.runtime", "from harness.models import build", "imports harness.models"),
        ("harness.models.segnet", "from harness.train import train", "imports harness.train"),
        ("harness.datasets.newcomer", "import ray.data", "imports ray.data"),
        ("harness.spec", "import torch", "imports torch"),
        ("harness.spec", "try:\n    import torch\nexcept ImportError:\n    pass", "imports torch"),
        ("harness.store", "from harness import report", "imports harness.report"),
        ("harness.cli", "import torch", "imports torch"),
        ("harness.cli", "class A:\n    import torch", "imports torch"),
    ],
)
def test_the_check_sees(module: str, source: str, wrong: str) -> None:
    found = violations(module, source)
    assert len(found) == 1 and wrong in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("harness.cli", "def f():\n    import torch, ray\n    from harness.launch import run_all"),
        ("harness.runtime", "class Runtime:\n    def ray_worker(cls):\n        import ray.train"),
        ("harness.distillers.newcomer", "from harness.distillers._ops import match_size\nimport torch.nn.functional"),
        (
            "harness.screen",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from harness.launch import run_all",
        ),
        ("harness.datasets.newcomer", "from harness.datasets.base import Data\nimport json, cv2"),
    ],
)
def test_the_check_allows(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_modules_import_each_other_in_one_direction() -> None:
    """No cycles, imports inside functions included (those of `cli` and `doctor`, which nobody imports, aside)."""
    edges = {m: {n for n, _ in imports(p.read_text(), m) if n in MODULES and n != m} for m, p in MODULES.items()}
    left = dict(edges)
    while ready := [m for m in left if not left[m] & left.keys()]:
        for module in ready:
            del left[module]
    assert left == {}


def test_a_light_import_stays_light() -> None:
    names = ", ".join(f"harness.{name}" for name in LIGHT.split())
    code = f"import sys, {names}; print(*sorted({{'torch', 'ray', 'timm', 'torchvision'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


@pytest.mark.parametrize("module", MODULES)
def test_a_file_can_be_read_in_one_sitting(module: str) -> None:
    source = MODULES[module].read_text()
    assert len(source.splitlines()) <= MAX_LINES
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = [
        f"{f.name}: {f.end_lineno - f.lineno + 1}" for f in functions if f.end_lineno - f.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


def test_a_package_that_is_not_listed_would_not_be_installed() -> None:
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert sorted(listed) == sorted(m for m, path in MODULES.items() if path.name == "__init__.py")
