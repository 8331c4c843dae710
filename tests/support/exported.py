"""Which networks become a graph, and for which sizes: the table of docs/export.md."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness.datasets import Data, DataInfo
from harness.deployment.export import TARGETS as EVERY
from harness.deployment.export import Graphs
from harness.deployment.graphs import require_free
from harness.deployment.source import Form, Source
from harness.experiment.recipe import Evaluation
from harness.experiment.spec import Network
from harness.models import build

CLASSES = 3
ENCODERS = ("resnet18", "efficientnet-b0", "mobilenet_v2", "tu-convnext_atto", "mit_b0")
SMP = (
    *("unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "deeplabv3", "deeplabv3plus", "pan", "upernet"),
    "segformer",
)
OTHERS: tuple[tuple[str, str], ...] = (
    *(("pspnet-papers", "tu-resnet18"), ("deeplabv3-cirkd", "tu-resnet18")),
    *(("unet", "tu-tf_efficientnet_lite0"), ("dpt", "tu-vit_tiny_patch16_224")),
    *((head, "tu-vit_tiny_patch16_224") for head in ("vit-linear", "vit-multilevel", "vit-dpt")),
    *(("lraspp", "mobilenet_v3_large"), ("deeplabv3-torchvision", "mobilenet_v3_large")),
    *(("fcn-torchvision", "resnet50"), ("segformer-transformers", "mit-b0")),
)
PAIRS = (*((architecture, encoder) for architecture in SMP for encoder in ENCODERS), *OTHERS)
GRAPHS = ("torch-export", "onnx")
OTHER_TARGETS = ("openvino", "executorch")
TARGETS = {name: kind for name, kind in EVERY.items() if isinstance(kind, Graphs)}
ONE = Form(size_hw=(128, 160), batch=1)
NOT_BUILT, ANY, FIXED, NO = "–", "any", "fixed", "no"


def source(architecture: str, encoder: str) -> Source | None:
    """The network with random weights as a run would have it; None where the library does not combine the two."""
    network = Network(architecture=architecture, encoder=encoder)
    try:
        built = build(network, CLASSES, 0).eval()
    except ValueError:
        return None
    names, colours = tuple("abc"), ((0, 0, 0), (1, 1, 1), (2, 2, 2))
    info = DataInfo("made", CLASSES, names, colours, (127.5,) * 3, (127.5,) * 3, "", "")
    row = {"run_id": "0" * 16, "experiment": "made", "method": "none", "weights_sha256": "0" * 64}
    recipe = SimpleNamespace(evaluation=Evaluation())
    run: Any = SimpleNamespace(network=network, train=recipe, data=SimpleNamespace(parameters={}))
    return Source(Path(), row, run, built, Data(info, (), (), ()))


def agrees(found: Source, target: str, form: Form, folder: Path) -> bool:
    """Whether the graph is made, and gives the network's scores on images of other sizes."""
    kind = TARGETS[target]
    try:
        kind.write(found, form, folder)
        require_free(kind.load(folder, 1), found, form, target)
    except ValueError:
        return False
    return True


def cell(architecture: str, encoder: str, folder: Path, targets: Sequence[str] = GRAPHS) -> dict[str, str]:
    """By target: `any` size and number of images, one `fixed`, `no`, or that there is no such network."""
    found = source(architecture, encoder)
    if found is None:
        return dict.fromkeys(targets, NOT_BUILT)
    cells = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for target in targets:
            forms = ((ANY, Form()), (FIXED, ONE))
            cells[target] = next((name for name, form in forms if agrees(found, target, form, folder)), NO)
    return cells


def said(cells: dict[str, str]) -> str:
    """A cell of the table: one word, or what differs between the targets."""
    words = set(cells.values())
    return words.pop() if len(words) == 1 else ", ".join(f"{word} ({target})" for target, word in cells.items())


def both(cells: dict[str, str]) -> str:
    """A cell of the table of `OTHER_TARGETS`: a word for each, or that there is no such network."""
    words = list(cells.values())
    return NOT_BUILT if NOT_BUILT in words else ", ".join(words)


def line_of(architecture: str, folder: Path, targets: Sequence[str]) -> str:
    """An architecture's line, a cell for each encoder."""
    cells = [cell(architecture, encoder, folder, targets) for encoder in ENCODERS]
    return f"| `{architecture}` | {' | '.join(map(SAID[tuple(targets)], cells))} |"


def line_of_other(architecture: str, encoder: str, folder: Path, targets: Sequence[str]) -> str:
    """The line of a network in `OTHERS`."""
    return f"| `{architecture}`, `{encoder}` | {SAID[tuple(targets)](cell(architecture, encoder, folder, targets))} |"


SAID = {GRAPHS: said, OTHER_TARGETS: both}


def table(folder: Path) -> Iterator[str]:
    """The lines of all tables."""
    for targets in SAID:
        yield f"| | {' | '.join(f'`{encoder}`' for encoder in ENCODERS)} |"
        yield "|---|" + "---|" * len(ENCODERS)
        yield from (line_of(architecture, folder, targets) for architecture in SMP)
        yield ""
        yield "| other networks | |"
        yield "|---|---|"
        yield from (line_of_other(*network, folder, targets) for network in OTHERS)
        yield ""
