"""Datasets: one file each, and the table of their loaders.

Adding a dataset is a file with a loader `name(root, *, ...) -> Data` and a line below. Keyword parameters of a loader
are what an experiment file may set, so they carry plain annotations and literal defaults.
"""

from collections.abc import Callable

from harness.datasets.base import Data, DataInfo, Split
from harness.datasets.texmosaic import texmosaic

DATASETS: dict[str, Callable[..., Data]] = {
    "texmosaic": texmosaic,
}

__all__ = ["DATASETS", "Data", "DataInfo", "Split", "texmosaic"]
