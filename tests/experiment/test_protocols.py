"""Files that name a published protocol follow it: scales, and each method's weights for each dataset, with the source."""

import re
from pathlib import Path
from typing import Any

import pytest

from harness.experiment.load import load
from harness.experiment.method import method_entry
from harness.papers.lines import ours_of, parts_of
from harness.papers.protocols import CIRKD, SKD
from harness.papers.reproduce import BASES
from harness.papers.tables import PAPERS

FOLDER = Path("experiments")
SKD_CODE = "irfanICMLL/structure_knowledge_distillation@5cb4e49"
IFVD_CODE = "YukangWang/IFVD@950a7a5"
CWD_CODE = "irfanICMLL/TorchDistiller@c2caaca"
CIRKD_CODE = "winycg/CIRKD@05a2753"
AF_DCD_CODE = "OSVAI/Af-DCD@f1e1a24"

HINGE = {"pixel": 0.0, "pairwise": 0.0, "holistic": 0.001, "adversarial": "hinge"}
# Methods as (name, what differs from the defaults); a sum has several.
OF_SKD = [
    {"none": {}},
    {"kd": {}},
    {"kd": {"weight": 10.0, "convention": "skd"}},
    {"kd": {"weight": 10.0, "convention": "ifvd"}},
    {"skd": {}},
    {"skd": {"pairwise": 0.5}},
    {"ifvd": {}},
    {"cwd": {}},
    {"sstkd": {"w_re": 5.0, "w_str": 0.9, "w_adv": 0.01}},
]
# The published values behind those defaults.
DEFAULTS = {
    "kd": {"weight": 1.0, "temperature": 1.0},
    "skd": {"pixel": 10.0, "pairwise": 1.0, "holistic": 0.1, "convention": "skd", "adversarial": "wgan-gp"},
    "ifvd": {"weight": 200.0, "kd": 10.0, "adversarial": 0.001, "convention": "ifvd"},
    "cwd": {"logits": 3.0, "feature": 0.0, "tau": 4.0},
    "dsd": {"pixel": 1000.0, "category": 10.0},
    "cirkd": {"batch": 1.0, "pixel": 0.1, "region": 0.1, "kd": 1.0, "tau": 0.1},
    "dist": {"inter": 1.0, "intra": 1.0, "tau": 1.0},
}


def of_cirkd(cirkd: dict[str, float], af_dcd: dict[str, float]) -> list[dict[str, dict[str, Any]]]:
    """The methods under CIRKD's protocol, with the weights that differ between datasets."""
    return [
        {"none": {}},
        {"kd": {}},
        {"skd": {"convention": "cirkd", "pixel": 1.0, "pairwise": 10.0, "holistic": 0.001, "adversarial": "hinge"}},
        {"ifvd": {"weight": 20.0, "kd": 1.0, "adversarial": 0.0, "convention": "canonical"}, "skd": HINGE},
        {"kd": {}, "cwd": {"feature": 50.0, "convention": "cirkd"}, "skd": HINGE},
        {"dsd": {"kd": 0.0}},
        {"cirkd": cirkd},
        {"dist": {}},
        {"af-dcd": {"groups": 16, "tap": "last", **af_dcd}},
        {"skd": {}},
        {"ifvd": {}},
        {"cwd": {}},
        {"sstkd": {"w_re": 5.0, "w_str": 0.9, "w_adv": 0.01}},
    ]


METHODS = {
    "cityscapes": OF_SKD,
    "voc2012": OF_SKD,
    "ade20k": OF_SKD,
    "cityscapes_cirkd": of_cirkd({}, {"kd": 1.0}),  # reconstruction 2e-6 and contrast 5e-3 are the defaults
    "voc2012_cirkd": of_cirkd({"pixel": 0.01, "region": 0.01}, {"feature": 1e-6, "kd": 1.0}),
    "ade20k_cirkd": of_cirkd({}, {"feature": 1e-6, "contrast": 0.04, "kd": 0.5}),
}
SOURCES = {
    name: (CIRKD_CODE, AF_DCD_CODE) if name.endswith("cirkd") else (SKD_CODE, IFVD_CODE, CWD_CODE) for name in METHODS
}


def changed(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters that differ from the method's defaults."""
    defaults = method_entry(name).parameters().model_dump(mode="json")
    return {key: value for key, value in parameters.items() if value != defaults[key]}


def shown(file: str) -> list[dict[str, dict[str, Any]]]:
    """The methods of a file, as `METHODS` writes them."""
    methods = load(FOLDER / f"{file}.yaml", ["controls=false"], here=False).methods
    return [{part.name: changed(part.name, part.parameters) for part in method.parts} for method in methods]


def test_every_file_with_a_protocol_is_listed() -> None:
    named = {path.stem for path in FOLDER.glob("*.yaml") if "in the protocol of" in path.read_text()}
    assert named == set(METHODS) == {Path(file).stem for file in BASES.values()}


@pytest.mark.parametrize("file", METHODS)
def test_its_weights_are_those_of_the_sources(file: str) -> None:
    assert shown(file) == METHODS[file]


@pytest.mark.parametrize("file", METHODS)
def test_its_scales_are_those_of_the_sources(file: str) -> None:
    augment = load(FOLDER / f"{file}.yaml", here=False).train.augment
    scale = (0.5, 2.0) if file.endswith("cirkd") else (0.7, 2.1)
    assert (augment.scale, augment.scale_step) == (scale, 0.1)


@pytest.mark.parametrize("file", METHODS)
def test_its_comments_name_the_sources_with_commits(file: str) -> None:
    comments = " ".join(re.findall(r"#(.*)", (FOLDER / f"{file}.yaml").read_text()))
    assert [source for source in SOURCES[file] if source not in comments] == []


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_that_stand_for_published_values_are_these(name: str) -> None:
    defaults = method_entry(name).parameters().model_dump()
    assert {key: defaults[key] for key in DEFAULTS[name]} == DEFAULTS[name]


def compared(table: Any, column: Any) -> list[dict[str, dict[str, Any]]]:
    """The methods of a table's column whose published variant is the whole method."""
    found = []
    for line in table.lines:
        ours = ours_of(line, column)
        if ours is not None and line.title in ("student", "KD", "SKD", "IFVD", "CWD", "DSD", "CIRKD", "DIST", "Af-DCD"):
            found.append({name: changed(name, dict(given)) for name, given in parts_of(ours)})
    return found


@pytest.mark.parametrize("table", ["sstkd-table-1", "cirkd-table-1", "cirkd-table-2", "af-dcd-table-1"])
def test_a_papers_table_has_the_methods_of_its_file(table: str) -> None:
    (own,) = [each for tables in PAPERS.values() for each in tables if each.id == table]
    assert own.protocol in (SKD, CIRKD)
    for column in own.columns:
        methods = METHODS[Path(BASES[own.protocol, column.dataset]).stem]
        found = compared(own, column)
        assert len(found) >= 4 and [method for method in found if method not in methods] == [], column
