"""Digests of the source files that a run's numbers come from.

The package's own files change with every release: a row records them, and a reader is told which have changed since.
Files of a method from outside (`package.module:Class`) are part of what the run is: with other files it is another run.
"""

import ast
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.experiment import signatures
from harness.experiment.signatures import source_file

ROOMS = ("harness.distillers", "harness.datasets", "harness.models", "sstkd")
"""Packages whose modules are followed from a method, a dataset or a network."""
OF_EVERY_RUN = (
    *(f"harness.training.{name}" for name in ("loop", "step", "optimizers", "batches", "build", "evaluate")),
    *("harness.training.task_loss", "harness.training.schedule", "harness.training.average"),
    *("harness.training.confusion", "harness.training.normalize", "harness.training.ranks"),
    *("harness.datasets.augment", "harness.metrics", "harness.seeds", "harness.taps"),
)
"""Modules behind the numbers of every run; what they import is not followed."""


def outside_sha256(method: str, *others: str) -> str | None:
    """SHA-256 over the source files from outside behind a run: of its methods, its network, data and task losses.

    All files of a package count, and modules and packages beside it that it imports.

    Args:
        method: its name, e.g. "kd+mine.methods:Mine".
        others: the architecture of the network that it trains, the dataset and task losses, e.g. "mine.networks:Net".

    Returns:
        None if all are built in.

    Raises:
        ValueError: a module cannot be found.
    """
    targets = [name for name in (*method.split("+"), *others) if ":" in name]
    if not targets:
        return None
    digest = hashlib.sha256()
    for target in sorted(targets):
        for name, path in sorted(_outside_files(target.partition(":")[0]).items()):
            digest.update(f"{name}\0{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def code_files(method: str, dataset: str) -> dict[str, str]:
    """The package's own files behind a run's numbers: the first 16 digits of their SHA-256 by path.

    Args:
        method: its name, e.g. "kd" or "kd+sstkd"; files from outside are left out.
        dataset: its name.

    Returns:
        By path below the installed package's folder, e.g. "harness/distillers/kd.py".
    """
    found: dict[str, str] = {}
    for module in modules(method, dataset):
        path = source_file(module)
        name = module.replace(".", "/") + ("/__init__.py" if path.name == "__init__.py" else ".py")
        found[name] = file_sha256(path)[:16]
    return found


def code_sha256(files: dict[str, str]) -> str:
    """One digest of what `code_files` returns."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def code_columns(method: str, architecture: str, dataset: str, *losses: str) -> dict[str, Any]:
    """The columns of a row that say which source files its numbers come from, as they are now."""
    files = code_files(method, dataset)
    return {
        "source_sha256": outside_sha256(method, architecture, dataset, *losses),
        "code_sha256": code_sha256(files),
        "code_files": files,
    }


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a source file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.lru_cache(maxsize=256)
def modules(method: str, dataset: str) -> tuple[str, ...]:
    """The modules of `code_files`: those of every run, and what follows from the method, dataset and network."""
    methods = signatures.table("harness.distillers", "METHODS")
    datasets = signatures.table("harness.datasets", "DATASETS")
    names = [(methods, name) for name in method.split("+")] + [(datasets, dataset)]
    starts = [table[name].target.partition(":")[0] for table, name in names if name in table]
    return tuple(sorted({*OF_EVERY_RUN, *_followed([*starts, "harness.models.build"])}))


def _followed(starts: list[str]) -> set[str]:
    """These modules and all of `ROOMS` that they import, one after the other."""
    found, waiting = set[str](), list(starts)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += [name for name in _imports(module) if any(_within(name, room) for room in ROOMS)]
    return found


def _within(module: str, room: str) -> bool:
    return module == room or module.startswith(f"{room}.")


@functools.cache
def _imports(module: str) -> tuple[str, ...]:
    """The project's modules that a module imports; a name from a package's table counts as the module it is from."""
    return tuple(sorted({name for name, _ in _imported(source_file(module)) if _is_ours(name)}))


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in ("harness", "sstkd")


def _imported(path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of every import of a file; the module is resolved through the package's own imports."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # a template or such in a package from outside: it is imported by nobody
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                yield _resolved(node.module, alias.name), alias.name


def _resolved(module: str, name: str) -> str:
    """The module that `from module import name` gets `name` from: itself, a module in it, or where it has it from."""
    if not _is_ours(module):
        return module
    path = source_file(module)
    if path.name != "__init__.py":
        return module
    if (path.parent / f"{name}.py").is_file() or (path.parent / name / "__init__.py").is_file():
        return f"{module}.{name}"
    return _origins(module).get(name, module)


@functools.cache
def _origins(package: str) -> dict[str, str]:
    """Which module a package's `__init__` has each of its names from."""
    tree = ast.parse(source_file(package).read_text(encoding="utf-8"))
    return {
        alias.asname or alias.name: node.module
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and _is_ours(node.module)
        for alias in node.names
    }


def _outside_files(module: str) -> dict[str, Path]:
    """All Python files of a module's top-level package, or the single file; and those beside it that they import."""
    top = module.partition(".")[0]
    path = source_file(top) if "." not in module else _top_file(module, top)
    beside = path.parent.parent if path.name == "__init__.py" else path.parent
    found = _below(beside, top) if path.name == "__init__.py" else {path.name: path}
    if beside.resolve().name in ("site-packages", "dist-packages"):
        return found
    waiting = list(found.values())
    while waiting:
        for name, _ in _imported(waiting.pop()):
            new = {} if _is_ours(name) else _below(beside, name.partition(".")[0])
            waiting += [file for key, file in new.items() if key not in found]
            found |= new
    return found


def _below(folder: Path, name: str) -> dict[str, Path]:
    """The Python files of a module or package in `folder`, by path below it; none if it is not there."""
    single = folder / f"{name}.py"
    files = (folder / name).rglob("*.py") if (folder / name).is_dir() else [single] if single.is_file() else []
    return {file.relative_to(folder).as_posix(): file for file in files}


def _top_file(module: str, top: str) -> Path:
    """The `__init__.py` of a package; a folder without one counts as if it had."""
    depth = module.count(".")
    file = source_file(module)
    folder = file.parent if file.name != "__init__.py" else file.parent.parent
    for _ in range(depth - 1):
        folder = folder.parent
    assert folder.name == top, (folder, top)
    return folder / "__init__.py"
