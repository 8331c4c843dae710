"""Digests of the source files that a run's numbers come from.

The package's own files change with every release: a row records them, and a reader is told which have changed since.
Files of a method from outside (`package.module:Class`) are part of what the run is: with other files it is another run.
"""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from harness.experiment import signatures
from harness.experiment.signatures import source_file
from harness.experiment.sources import imported, is_ours, outside_files

ROOMS = ("harness.distillers", "harness.datasets", "harness.models", "sstkd")
"""Packages whose modules are followed from a method, a dataset or a network."""
OF_EVERY_RUN = (
    *(f"harness.training.{name}" for name in ("loop", "step", "optimizers", "batches", "build", "evaluate")),
    *("harness.training.task_loss", "harness.training.schedule", "harness.training.average"),
    *("harness.training.confusion", "harness.training.normalize", "harness.training.ranks"),
    *("harness.training.precision", "harness.training.deterministic"),
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
        for name, path in sorted(outside_files(target.partition(":")[0]).items()):
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


def code_columns(
    method: str, architecture: str, dataset: str, *losses: str, teacher: str | None = None
) -> dict[str, Any]:
    """The columns of a row that say which source files its numbers come from, as they are now.

    Args:
        method: its name, e.g. "kd+mine.methods:Mine".
        architecture: of the network that it trains.
        dataset: its name.
        losses: names of task losses.
        teacher: the architecture of the teacher; None for a run without one.
    """
    files = code_files(method, dataset)
    return {
        "source_sha256": outside_sha256(method, architecture, dataset, *losses),
        "teacher_source_sha256": None if teacher is None else outside_sha256("", teacher),
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
    return tuple(sorted({name for name, _ in imported(source_file(module)) if is_ours(name)}))
