"""Datasets: one file each, and the tables of their loaders and of what is known of those in files.

Adding a dataset is a file with a loader `name(root, *, ...) -> Data` and a line below. Keyword parameters of a loader
are what an experiment file may set, so they carry plain annotations and literal defaults. A dataset in files has a
function `source(root, ...) -> Source` too.
"""

from collections.abc import Callable

from harness.datasets.ade20k import ade20k
from harness.datasets.ade20k import source as _ade20k
from harness.datasets.base import Data, DataInfo, Split
from harness.datasets.camvid import camvid
from harness.datasets.camvid import source as _camvid
from harness.datasets.cityscapes import cityscapes
from harness.datasets.cityscapes import source as _cityscapes
from harness.datasets.folder import folder
from harness.datasets.folder import source as _folder
from harness.datasets.landcover import landcover
from harness.datasets.source import Source
from harness.datasets.texmosaic import texmosaic
from harness.datasets.voc2012 import source as _voc2012
from harness.datasets.voc2012 import voc2012

DATASETS: dict[str, Callable[..., Data]] = {
    "ade20k": ade20k,
    "camvid": camvid,
    "cityscapes": cityscapes,
    "folder": folder,
    "landcover": landcover,
    "texmosaic": texmosaic,
    "voc2012": voc2012,
}

SOURCES: dict[str, Callable[..., Source]] = {
    "ade20k": _ade20k,
    "camvid": _camvid,
    "cityscapes": _cityscapes,
    "folder": _folder,
    "voc2012": _voc2012,
}

__all__ = [
    "DATASETS",
    "SOURCES",
    "Data",
    "DataInfo",
    "Source",
    "Split",
    "ade20k",
    "camvid",
    "cityscapes",
    "folder",
    "landcover",
    "texmosaic",
    "voc2012",
]
