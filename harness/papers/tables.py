"""The papers' tables as data: rows, columns, published figures and the corresponding methods of this project.

If the paper's text was not available, rows and columns are inferred from `results/published`: the order is that of the
figures' source, and the tables are numbered by this project. SSTKD's ablations have only the known rows; most of their
figures could not be verified.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.experiment.method import Method

Ours = tuple[str, Mapping[str, Any]]
"""A name in METHODS, and its non-default parameters; of a sum `a+b`, with names in the order of the alphabet, and `a.NAME`."""

NETWORKS: dict[str, tuple[str, str, Mapping[str, Any]]] = {
    "PSPNet-R101": ("pspnet-papers", "tu-resnet101", {}),
    "PSPNet-R18": ("pspnet-papers", "tu-resnet18", {}),
    "PSPNet-R18(0.5)": ("pspnet-papers", "tu-resnet18", {"half_width": True}),
    "DeepLabV3-R101": ("deeplabv3-cirkd", "tu-resnet101", {}),
    "DeepLabV3-R18": ("deeplabv3-cirkd", "tu-resnet18", {}),
}
"""Architecture, encoder and parameters by the papers' name; other networks are not available."""


@dataclass(frozen=True)
class Recipe:
    """A protocol's recipe, as far as it is known: steps, images per step, crop (H, W) by dataset."""

    steps: int
    batch_size: int | None = None
    crop_hw: Mapping[str, tuple[int, int]] = field(default_factory=dict)


SKD, CIRKD = "SKD/IFVD/CWD/SSTKD: 512x512, 40k x 8", "CIRKD: 512x1024 (Cityscapes) / 512x512, 40k x 16"
MMSEG, MGD = "mmsegmentation 80k, 512x1024 (Cityscapes) / 512x512", "MGD (mmseg 40k, 512x512)"
_SQUARE, _WIDE = (512, 512), (512, 1024)
RECIPES = {
    SKD: Recipe(40_000, 8, {"cityscapes": _SQUARE, "voc2012": _SQUARE, "ade20k": _SQUARE}),
    CIRKD: Recipe(40_000, 16, {"cityscapes": _WIDE, "voc2012": _SQUARE, "ade20k": _SQUARE}),
    MMSEG: Recipe(80_000, None, {"cityscapes": _WIDE, "ade20k": _SQUARE}),
    MGD: Recipe(40_000, None, {"cityscapes": _SQUARE}),
}


@dataclass(frozen=True)
class Column:
    """A student on a dataset; `variant` applies to all lines, if the paper has variants as columns."""

    student: str
    dataset: str = "cityscapes"
    split: str = "val"
    variant: str | None = None


@dataclass(frozen=True)
class Line:
    """A method: its name in the paper, published `method` and `variant`, and our method (one for all columns, or by
    column variant, or by dataset; None if there is none)."""

    title: str
    method: str
    variant: str = ""
    ours: Ours | Mapping[str, Ours] | None = None


def ours_of(line: Line, column: Column) -> Ours | None:
    """Our method for a cell; None if there is none."""
    if isinstance(line.ours, Mapping):
        return line.ours.get(column.dataset if column.variant is None else column.variant)
    return line.ours


def parts_of(ours: Ours) -> list[Ours]:
    """The methods of a sum, each with its own parameters; a single method is its only part."""
    return [(part.name, part.parameters) for part in Method(name=ours[0], parameters=dict(ours[1])).parts]


@dataclass(frozen=True)
class PaperTable:
    """One table of a paper. Without columns it is a table of costs: parameters and MACs of `networks`.

    Attributes:
        id, title: of the table.
        protocol: under which its figures are filed.
        teacher, columns, lines: the cells.
        networks: of a table of costs.
        gains: figures published only as gains are listed below the table.
        teachers_under: the protocol of the teacher's figure by dataset, where it is another one.
        note: stands below the table.
    """

    id: str
    title: str
    protocol: str
    teacher: str = ""
    columns: tuple[Column, ...] = ()
    lines: tuple[Line, ...] = ()
    networks: tuple[str, ...] = ()
    gains: bool = False
    teachers_under: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


_TEACHER = Line("teacher", "teacher")


def _plain(variant: str = "") -> Line:
    return Line("student", "none", variant, ("none", {}))


_SSTKD = Line("SSTKD", "sstkd", "full", ("sstkd", {}))
_SKD = Line("SKD", "skd", "pixel+pair+holistic", ("skd", {}))
_IFVD = Line("IFVD", "ifvd", "full", ("ifvd", {}))
_CWD = Line("CWD", "cwd", "logits", ("cwd", {}))
_HINGE = {"skd.pixel": 0.0, "skd.pairwise": 0.0, "skd.holistic": 0.001, "skd.adversarial": "hinge"}
"""The critic that CIRKD's scripts add to IFVD and CWD."""
# Weights of the scripts; experiments/*_cirkd.yaml names their commits.
_OF_CIRKD = (
    _TEACHER,
    _plain("full"),
    Line("KD", "kd", "full", ("kd", {})),
    Line(
        "SKD",
        "skd",
        "full",
        ("skd", {"convention": "cirkd", "pixel": 1.0, "pairwise": 10.0, "holistic": 0.001, "adversarial": "hinge"}),
    ),
    Line(
        "IFVD",
        "ifvd",
        "full",
        (
            "ifvd+skd",
            {"ifvd.weight": 20.0, "ifvd.kd": 1.0, "ifvd.adversarial": 0.0, "ifvd.convention": "canonical", **_HINGE},
        ),
    ),
    Line("CWD", "cwd", "full", ("cwd+kd+skd", {"cwd.feature": 50.0, "cwd.convention": "cirkd", **_HINGE})),
    Line("DSD", "dsd", "full", ("dsd", {"kd": 0.0})),
    Line(
        "CIRKD",
        "cirkd",
        "full",
        {
            "cityscapes": ("cirkd", {}),
            "voc2012": ("cirkd", {"pixel": 0.01, "region": 0.01}),
            "ade20k": ("cirkd", {}),
        },
    ),
)


def _af_dcd(feature: float, contrast: float, kd: float) -> Ours:
    return "af-dcd", {"feature": feature, "contrast": contrast, "kd": kd, "groups": 16, "tap": "last"}


_AFTER_CIRKD = (
    *_OF_CIRKD,
    Line("MasKD", "maskd", "full"),
    Line("DIST", "dist", "full", ("dist", {})),
    Line(
        "Af-DCD",
        "af-dcd",
        "full",
        {
            "cityscapes": _af_dcd(2e-6, 0.005, 1.0),
            "voc2012": _af_dcd(1e-6, 0.005, 1.0),
            "ade20k": _af_dcd(1e-6, 0.04, 0.5),
        },
    ),
)
_SCRIPTS = (
    "Weights are those of the scripts of CIRKD and Af-DCD. Those for SKD, IFVD, CWD and DSD exist for Cityscapes only; the "
    "weights behind the figures of other datasets are not known."
)
_RECIPE = "DIST and MasKD have another recipe: weight decay 5e-4, learning rate down to 1e-4."
_R18, _HALF, _DEEPLAB, _MOBILE = "PSPNet-R18", "PSPNet-R18(0.5)", "DeepLabV3-R18", "DeepLabV3-MBV2"
_NUMBERING = "The paper's text was not available: its rows, columns and numbering may differ."
_COMPARED = (_TEACHER, _plain(), _SKD, _IFVD, _CWD, _SSTKD)


def _sstkd(title: str, **parameters: Any) -> Line:
    return Line(title, "sstkd", title, ("sstkd", parameters))


PAPERS: dict[str, tuple[PaperTable, ...]] = {
    "sstkd": (
        PaperTable(
            "sstkd-table-1",
            "Cityscapes, students",
            SKD,
            "PSPNet-R101",
            (Column(_HALF), Column(_R18)),
            _COMPARED,
            note=_NUMBERING,
        ),
        PaperTable(
            "sstkd-table-2",
            "Cityscapes, components",
            SKD,
            "PSPNet-R101",
            (Column(_R18),),
            (
                _plain(),
                _sstkd("response+adversarial only", w_str=0.0, w_sta=0.0),
                _sstkd("with structural texture", w_sta=0.0),
                _sstkd("with statistical texture", w_str=0.0),
                _SSTKD,
            ),
            gains=True,
            note=_NUMBERING,
        ),
        PaperTable(
            "sstkd-table-3",
            "Cityscapes, depth of the pyramid",
            SKD,
            "PSPNet-R101",
            (Column(_R18),),
            (
                _sstkd("1 level", levels=[4]),
                Line("2 levels", "sstkd", "full", ("sstkd", {})),
                _sstkd("3 levels", levels=[2, 3, 4]),
            ),
            note=_NUMBERING,
        ),
        PaperTable(
            "sstkd-table-4",
            "Cityscapes, parts of DTIEM",
            SKD,
            "PSPNet-R101",
            (Column(_R18),),
            (
                _sstkd("without anchor regions", regions=0),
                _sstkd("without re-estimated levels", quantization_iterations=0),
                _sstkd("without the limit on counts", clip_limit=None),
                Line("all parts", "sstkd", "full", ("sstkd", {})),
            ),
            note=_NUMBERING,
        ),
        PaperTable(
            "sstkd-table-5",
            "Complexity at 512x1024, 19 classes",
            SKD,
            networks=("PSPNet-R101", _R18, _HALF),
            note=_NUMBERING,
        ),
        PaperTable(
            "sstkd-table-6",
            "Pascal VOC 2012",
            SKD,
            "PSPNet-R101",
            (Column(_R18, "voc2012"),),
            _COMPARED,
            note=_NUMBERING,
        ),
        PaperTable(
            "sstkd-table-7",
            "ADE20K",
            SKD,
            "PSPNet-R101",
            (Column(_R18, "ade20k"),),
            _COMPARED,
            note=_NUMBERING,
        ),
    ),
    "skd": (
        PaperTable(
            "skd-table-1",
            "Cityscapes, terms",
            SKD,
            "PSPNet-R101",
            (Column(_R18), Column(_R18, split="test")),
            (
                _TEACHER,
                _plain(),
                Line("pixel", "skd", "pixel", ("skd", {"pairwise": 0.0, "holistic": 0.0})),
                Line("pixel + pair", "skd", "pixel+pair", ("skd", {"holistic": 0.0})),
                Line("pixel + pair + holistic", "skd", "pixel+pair+holistic", ("skd", {})),
                Line("the same, pair-wise 0.5", "skd", "pixel+pair+holistic", ("skd", {"pairwise": 0.5})),
                Line("released checkpoint", "skd", "released checkpoint"),
            ),
            note="The authors' options have pair-wise 1, their script 0.5; which of them gave the figure is not known.",
        ),
    ),
    "cwd": (
        PaperTable(
            "cwd-table-2",
            "Cityscapes, single terms on features and on logits",
            SKD,
            "PSPNet-R101",
            (Column(_R18, variant="feature"), Column(_R18, variant="logits")),
            (
                _TEACHER,
                _plain(),
                Line("AT", "at", ours={"feature": ("at", {"kd": 0.0})}),
                Line("KD", "kd", ours={"logits": ("kd", {"convention": "ifvd", "weight": 10.0})}),
                Line("local", "local"),
                Line("pair-wise", "skd-pairwise", ours={"feature": ("skd", {"pixel": 0.0, "holistic": 0.0})}),
                Line("IFVD", "ifvd", ours={"feature": ("ifvd", {"kd": 0.0, "adversarial": 0.0})}),
                Line(
                    "CWD",
                    "cwd",
                    ours={"feature": ("cwd", {"logits": 0.0, "feature": 50.0}), "logits": ("cwd", {})},
                ),
                Line("holistic", "skd-holistic", ours={"logits": ("skd", {"pixel": 0.0, "pairwise": 0.0})}),
            ),
        ),
        PaperTable(
            "cwd-released",
            "Cityscapes, released checkpoints",
            SKD,
            "PSPNet-R101",
            (Column(_R18), Column(_R18, split="test")),
            tuple(Line(f"CWD, {v}", "cwd", v) for v in ("released checkpoint 1", "released checkpoint 2")),
        ),
    ),
    "cirkd": (
        PaperTable(
            "cirkd-table-1",
            "Cityscapes",
            CIRKD,
            "DeepLabV3-R101",
            tuple(Column(s, split=split) for s in (_DEEPLAB, _MOBILE, _R18) for split in ("val", "test")),
            _OF_CIRKD,
            note=_SCRIPTS,
        ),
        PaperTable(
            "cirkd-table-2",
            "Pascal VOC 2012 and ADE20K",
            CIRKD,
            "DeepLabV3-R101",
            (Column(_DEEPLAB, "voc2012"), Column(_R18, "voc2012"), Column(_DEEPLAB, "ade20k")),
            _OF_CIRKD,
            note=_SCRIPTS,
        ),
    ),
    "bpkd": (
        PaperTable(
            "bpkd-table-1",
            "Cityscapes and ADE20K",
            MMSEG,
            "PSPNet-R101",
            (Column(_R18), Column(_R18, "ade20k")),
            (
                _TEACHER,
                _plain("full"),
                Line("SKD", "skd", "full", ("skd", {})),
                _IFVD,
                Line("CIRKD", "cirkd", "full", ("cirkd", {})),
                Line("CWD", "cwd", "full", ("cwd", {})),
                Line("BPKD", "bpkd", "full"),
            ),
        ),
    ),
    "mgd": (
        PaperTable(
            "mgd-table-1",
            "Cityscapes",
            MGD,
            "PSPNet-R101",
            (Column(_R18), Column(_DEEPLAB)),
            (_plain(), Line("MGD", "mgd", "full", ("mgd", {}))),
        ),
    ),
    "af-dcd": (
        PaperTable(
            "af-dcd-table-1",
            "Cityscapes, Pascal VOC 2012 and ADE20K",
            CIRKD,
            "DeepLabV3-R101",
            (
                *(Column(s) for s in (_DEEPLAB, _MOBILE, _R18)),
                *(Column(s, "voc2012") for s in (_DEEPLAB, _R18)),
                Column(_DEEPLAB, "ade20k"),
            ),
            _AFTER_CIRKD,
            note=f"{_SCRIPTS} {_RECIPE}",
        ),
    ),
}
