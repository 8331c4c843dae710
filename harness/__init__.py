"""sstkd-bench: a fair benchmark of knowledge distillation for semantic segmentation.

    import harness
    experiment = harness.load("experiments/quickstart.yaml", ["train.steps=20"])
    bench = harness.Bench(experiment, "results")
    bench.run()
    print(bench.table().to_markdown())

Importing this loads nothing heavy; each name loads what it needs when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from harness.analysis.tables import Table
    from harness.bench import Bench, compare
    from harness.datasets import DATASETS
    from harness.deployment.export import export
    from harness.distillers import METHODS, Distiller
    from harness.experiment.load import load
    from harness.experiment.spec import Experiment, Run
    from harness.results.schema import SCHEMA
    from harness.results.store import read_rows
    from harness.taps import Pair, Taps, View
    from harness.training.loop import train
    from harness.training.runtime import Runtime
    from harness.training.student import load_student

_HOMES = {
    "Bench": "harness.bench",
    "DATASETS": "harness.datasets",
    "Distiller": "harness.distillers",
    "Experiment": "harness.experiment.spec",
    "METHODS": "harness.distillers",
    "Pair": "harness.taps",
    "Run": "harness.experiment.spec",
    "Runtime": "harness.training.runtime",
    "SCHEMA": "harness.results.schema",
    "Table": "harness.analysis.tables",
    "Taps": "harness.taps",
    "View": "harness.taps",
    "compare": "harness.bench",
    "export": "harness.deployment.export",
    "load": "harness.experiment.load",
    "load_student": "harness.training.student",
    "read_rows": "harness.results.store",
    "train": "harness.training.loop",
}

__all__ = [
    "DATASETS",
    "METHODS",
    "SCHEMA",
    "Bench",
    "Distiller",
    "Experiment",
    "Pair",
    "Run",
    "Runtime",
    "Table",
    "Taps",
    "View",
    "__version__",
    "compare",
    "export",
    "load",
    "load_student",
    "read_rows",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'harness' has no attribute {name!r}; it has: {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # found without this function from now on
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
