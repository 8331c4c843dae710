"""The papers' tables as data: rows, columns, published figures and the corresponding methods of this project.

If the paper's text was not available, rows and columns are inferred from `results/published`: the order is that of the
figures' source, and the tables are numbered by this project. SSTKD's ablations have only the known rows; most of their
figures could not be verified, and what could only be computed is not among the published figures.
"""

from collections.abc import Mapping
from typing import Any

from harness.papers.lines import Column, Line, Ours, PaperTable
from harness.papers.protocols import (
    ATTNFD,
    CIRKD,
    CIRKDV2,
    CIRKDV2_SEGFORMER,
    CONTEXT,
    CWD_AUTHOR,
    MGD,
    MMSEG,
    MMSEG_160K,
    MMSEG_769,
    SKD,
)

_TEACHER = Line("teacher", "teacher")


def _plain(variant: str = "") -> Line:
    return Line("student", "none", variant, ("none", {}))


_WEIGHTS = {"w_re": 5.0, "w_str": 0.9, "w_sta": 1.15, "w_adv": 0.01}
"""Of SSTKD's paper, recalled and unverified; the method's defaults are others."""
_SSTKD = Line("SSTKD", "sstkd", "full", ("sstkd", _WEIGHTS))
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
    "Weights are those of the scripts of CIRKD and Af-DCD. Those for SKD, IFVD, CWD and DSD exist for Cityscapes only; "
    "the weights behind the figures of other datasets are not known."
)
_RECIPE = "DIST and MasKD have another recipe: weight decay 5e-4, learning rate down to 1e-4."
_FROM_SCRATCH = Line("MasKD, student without pretraining", "maskd", "random initialisation")
_R18, _HALF, _DEEPLAB, _MOBILE = "PSPNet-R18", "PSPNet-R18(0.5)", "DeepLabV3-R18", "DeepLabV3-MBV2"
_NUMBERING = "The paper's text was not available: its rows, columns and numbering may differ."
_COMPARED = (_TEACHER, _plain(), _SKD, _IFVD, _CWD, _SSTKD)


def _sstkd(title: str, **parameters: Any) -> Line:
    return Line(title, "sstkd", title, ("sstkd", _WEIGHTS | parameters))


def _bpkd(number: int, protocol: str, teacher: str, student: str, under: Mapping[str, str]) -> PaperTable:
    """BPKD's comparison of five methods for one pair of networks."""
    datasets = ("pascal-context",) if protocol == CONTEXT else ("cityscapes", "ade20k")
    lines = (
        _TEACHER,
        _plain("full"),
        *(Line(method.upper(), method, "full", unknown=True) for method in ("skd", "ifvd", "cirkd", "cwd")),
        Line("BPKD", "bpkd", "full"),
    )
    return PaperTable(
        f"bpkd-table-{number}",
        f"{student}, {'Pascal Context' if protocol == CONTEXT else 'Cityscapes and ADE20K'}",
        protocol,
        teacher,
        tuple(Column(student, dataset) for dataset in datasets),
        lines,
        teachers_under=under,
        note="BPKD's authors published no training code, so the weights of all five methods are not known.",
    )


_BPKD_PAIRS = (
    ("PSPNet-R101", _R18, {"ade20k": MMSEG_160K}),
    ("HRNetV2P-W48", "HRNetV2P-W18S", {"cityscapes": MMSEG_160K, "ade20k": MMSEG_160K}),
    ("DeepLabV3+-R101", "DeepLabV3+-MBV2", {"ade20k": MMSEG_160K}),
    ("ISANet-R101", "ISANet-R18", {"cityscapes": MMSEG_769, "ade20k": MMSEG_160K}),
)
_CIRKDV2_PAIRS = (
    ("cityscapes", "test", "DeepLabV3-R18 UperNet-R18 DeepLabV3-MobileNetV3-S PSPNet-MobileNetV3-S"),
    ("cityscapes", "test", "DeepLabV3-MobileViT-XXS PSPNet-MobileViT-XXS"),
    ("ade20k", "val", "DeepLabV3-R18 UperNet-R18 DeepLabV3-MobileNetV3-L PSPNet-MobileNetV3-L"),
    ("voc2012", "val", "DeepLabV3-MobileNetV3-S DeepLabV3-MobileNetV3-L PSPNet-MobileNetV3-S PSPNet-MobileNetV3-L"),
    ("coco-stuff-164k", "val", "DeepLabV3-R18 DeepLabV3-MobileNetV3-S PSPNet-MobileNetV3-S DeepLabV3-MobileNetV3-L"),
)
_OF_CIRKDV2 = (_TEACHER, _plain("full"), Line("CIRKDv2", "cirkdv2", "full"))

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
                Line("2 levels", "sstkd", "full", ("sstkd", _WEIGHTS)),
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
                Line("all parts", "sstkd", "full", ("sstkd", _WEIGHTS)),
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
        PaperTable(
            "cwd-author",
            "Cityscapes, the author's own figures in MMSegmentation",
            CWD_AUTHOR,
            "PSPNet-R101",
            (Column(_R18),),
            (_plain("full"), Line("CWD", "cwd", "full", unknown=True)),
            note="Another baseline than the 69.1 of the paper, on which its gain is 3.5 instead of 5.8 points.",
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
        *(_bpkd(1 + i, MMSEG, *pair) for i, pair in enumerate(_BPKD_PAIRS)),
        *(_bpkd(5 + i, CONTEXT, teacher, student, {}) for i, (teacher, student, _) in enumerate(_BPKD_PAIRS)),
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
    "cirkdv2": (
        PaperTable(
            "cirkdv2-table-1",
            "Cityscapes, ADE20K, Pascal VOC 2012 and COCO-Stuff-164K",
            CIRKDV2,
            "DeepLabV3-R101",
            tuple(Column(s, dataset, split) for dataset, split, students in _CIRKDV2_PAIRS for s in students.split()),
            _OF_CIRKDV2,
        ),
        PaperTable(
            "cirkdv2-table-2",
            "Cityscapes, SegFormer",
            CIRKDV2_SEGFORMER,
            "SegFormer-B4",
            (Column("SegFormer-B0", split="test"),),
            _OF_CIRKDV2,
        ),
    ),
    "attnfd": (
        PaperTable(
            "attnfd-table-1",
            "Pascal VOC 2012 and Cityscapes",
            ATTNFD,
            "DeepLabV3+-R101",
            (Column("DeepLabV3+-R18", "voc2012"), Column("DeepLabV3+-R18")),
            (
                _TEACHER,
                _plain(),
                *(
                    Line(title, method, unknown=method in ("kd", "dist", "cirkd"))
                    for title, method in (
                        ("KD", "kd"),
                        ("Overhaul", "overhaul"),
                        ("DistKD", "dist"),
                        ("CIRKD", "cirkd"),
                        ("LAD", "lad"),
                        ("AttnFD", "attnfd"),
                    )
                ),
            ),
        ),
    ),
    "maskd": (
        PaperTable(
            "maskd-table-1",
            "Cityscapes",
            CIRKD,
            "DeepLabV3-R101",
            tuple(Column(s, split=split) for s in (_DEEPLAB, _MOBILE, _R18) for split in ("val", "test")),
            (_TEACHER, _plain("full"), Line("MasKD", "maskd", "full"), _FROM_SCRATCH),
            note=_RECIPE,
        ),
    ),
}
