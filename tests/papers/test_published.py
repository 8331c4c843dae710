"""The figures that are shipped: each can be looked up or is called unverified, and those that were wrong are right."""

import re
from pathlib import Path

import pytest

from harness.analysis.stats import score
from harness.papers.cells import Cell
from harness.papers.protocols import CIRKD, CWD_AUTHOR, MMSEG, MMSEG_160K, MMSEG_769, SKD
from harness.papers.published import Figure, read_published
from harness.papers.reproduce import state
from tests.papers.test_tables import grid

FIGURES = read_published(Path("results/published"))
# A file of a repository at a commit, an issue, or a paper on arXiv.
CITED = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{7,40} \S|[\w.-]+/[\w.-]+#\d+$|arXiv \d{4}\.\d{5}")


def value(protocol: str, student: str, method: str, dataset: str = "cityscapes", variant: str = "full") -> Figure:
    """The only figure of a cell on val."""
    found = [
        f
        for f in FIGURES
        if (f.protocol, f.student, f.method, f.dataset, f.variant) == (protocol, student, method, dataset, variant)
        and f.split == "val"
    ]
    assert len(found) == 1, (protocol, student, method, dataset, variant, found)
    return found[0]


def test_every_figure_can_be_looked_up_or_is_unverified() -> None:
    loose = [
        (f.cell, source)
        for f in FIGURES
        if f.sure == "V"
        for source in f.source.split("; ")
        if not CITED.search(source)
    ]
    assert loose == []
    assert {f.sure for f in FIGURES} == {"V", "V2", "C", "U"}
    assert [f.cell for f in FIGURES if f.sure == "U" and not f.note] == [], (
        "an unverified figure says what is known of it"
    )


def test_no_more_figures_come_from_notes_without_an_address() -> None:
    """The notes on SSTKD's paper were read without keeping their address; a further figure of this kind needs one."""
    loose = {f.value for f in FIGURES if f.sure == "V2" and not CITED.search(f.source)}
    assert loose == {75.15, 1.63, 0.59, 70.43, 574.9, 1.24, 10.9, 2.8, 23.73}


def test_a_citation_without_a_commit_is_found() -> None:
    wrong = [
        "hunto/MasKD",
        "winycg/CIRKD README",
        "SemSeg-distill README",
        "abstract of the paper",
        "winycg/CIRKD@main README",
    ]
    assert [text for text in wrong if CITED.search(text)] == []


def test_what_is_computed_says_from_what() -> None:
    computed = [f for f in FIGURES if f.sure == "C"]
    assert {f.value for f in computed} == {24.65, 13.07, 3.27}
    assert all(
        re.match(r"[\d.]+-[\d.]+, .*arXiv \d{4}\.\d{5}|counted from \S+@[0-9a-f]{7}", f.source) for f in computed
    )


def test_what_nobody_published_is_not_here() -> None:
    assert not any(f.value == 72.93 for f in FIGURES)
    cells = {cell.line: cell.texts[2] for cell in grid("sstkd-table-2", []).cells}
    assert cells["response+adversarial only"] == "unverified" and cells["SSTKD"] == "75.15 (V2)"


@pytest.mark.parametrize(("method", "printed"), [("skd", 73.29), ("ifvd", 73.71), ("cwd", 74.36)])
def test_pspnet_under_cirkd_is_cited_where_it_stands(method: str, printed: float) -> None:
    figure = value(CIRKD, "PSPNet-R18", method)
    assert (figure.value, figure.source) == (printed, "zifuwanggg/JDTLosses@32b3f23 README.md")


# Teacher, dataset: mIoU and the protocol of its configuration, as BPKD's README at 11c861e links them.
TEACHERS = {
    ("PSPNet-R101", "cityscapes"): (79.74, MMSEG),
    ("HRNetV2P-W48", "cityscapes"): (80.65, MMSEG_160K),
    ("DeepLabV3+-R101", "cityscapes"): (80.98, MMSEG),
    ("ISANet-R101", "cityscapes"): (80.61, MMSEG_769),
    ("PSPNet-R101", "ade20k"): (44.39, MMSEG_160K),
    ("HRNetV2P-W48", "ade20k"): (42.02, MMSEG_160K),
    ("DeepLabV3+-R101", "ade20k"): (45.47, MMSEG_160K),
    ("ISANet-R101", "ade20k"): (43.8, MMSEG_160K),
}


@pytest.mark.parametrize(("teacher", "dataset"), TEACHERS)
def test_a_teacher_is_filed_under_its_own_schedule(teacher: str, dataset: str) -> None:
    protocols = (MMSEG, MMSEG_160K, MMSEG_769)
    mine = [f for f in FIGURES if (f.teacher, f.dataset, f.method) == (teacher, dataset, "teacher")]
    assert [(f.value, f.protocol) for f in mine if f.protocol in protocols] == [TEACHERS[teacher, dataset]]


def test_its_table_shows_it_and_says_that_it_is_of_another_protocol() -> None:
    made = grid("bpkd-table-1", [])
    cells = {(cell.line, cell.column): cell.texts[2] for cell in made.cells}
    assert cells["teacher", "PSPNet-R18 ade20k"] == "44.39 (V)"
    said = {cell.line: cell.texts[0] for cell in made.cells}
    assert (said["CWD"], said["BPKD"]) == ("weights not known", "method not available")
    assert f"The teacher's figure on ade20k is of another protocol: {MMSEG_160K}." in made.notes
    assert not any("on cityscapes is of another protocol" in note for note in made.notes)


@pytest.mark.parametrize(
    ("student", "none", "best"),
    [("DeepLabV3-R18", 36.92, 39.82), ("UperNet-R18", 34.37, 36.87), ("PSPNet-MobileNetV3-L", 33.63, 36.01)],
)
def test_tables_of_cirkdv2(student: str, none: float, best: float) -> None:
    protocol = "CIRKDv2: 80k, 512x1024 x 8 (Cityscapes) / 512x512 x 16"
    found = [value(protocol, student, method, "ade20k").value for method in ("none", "cirkdv2")]
    assert found == [none, best]


def test_figures_of_authors_beside_their_papers() -> None:
    assert [value(CWD_AUTHOR, "PSPNet-R18", m).value for m in ("none", "cwd")] == [71.2, 74.7]
    (idd,) = [f for f in FIGURES if f.method == "idd"]
    assert (idd.metric, idd.value, idd.source) == ("miou_gain", 7.5, "abstract of arXiv 2205.03650")
    assert value(CIRKD, "DeepLabV3-R18", "maskd", variant="random initialisation").value == 73.95
    student = value(CIRKD, "DeepLabV3-R18", "none", "ade20k")
    assert student.value == 33.91 and "KT prints 32.91" in student.note
    assert [
        value("AttnFD (DeepLabV3+)", "DeepLabV3+-R18", "attnfd", d, "").value for d in ("voc2012", "cityscapes")
    ] == [
        73.09,
        73.04,
    ]


def cell(sure: str) -> Cell:
    """A measured cell whose interval holds the figure."""
    figure = Figure("d", "val", SKD, "t", "s", "m", "", "miou", 75.0, sure, "x")
    return Cell("SSTKD", "s", "", score([74.9, 75.0, 75.1]), None, figure)


@pytest.mark.parametrize(
    ("sure", "text", "said", "has_gap"),
    [
        ("V", "75 (V)", "reproduced", True),
        ("V2", "75 (V2)", "reproduced", True),
        ("C", "75 (C)", "measured", True),
        ("U", "75 (unverified)", "measured", False),
    ],
)
def test_only_what_was_printed_can_be_reproduced(sure: str, text: str, said: str, has_gap: bool) -> None:
    mine = cell(sure)
    assert mine.texts[2] == text and state(mine, 3) == said
    assert (mine.gap is not None) == has_gap and mine.record("t")["sure"] == sure
