"""Published figures and the papers' tables: every figure where it belongs, every measured cell from its own rows only."""

import csv
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from harness.analysis.stats import paired_difference, score
from harness.cli.app import app
from harness.experiment.method import method_entry
from harness.experiment.signatures import plain
from harness.papers.cells import Cell, Grid
from harness.papers.lines import Column, ours_of, parts_of
from harness.papers.measured import COLUMNS, build, complete, costs, prepared
from harness.papers.protocols import MMSEG_160K, MMSEG_769, NETWORKS, RECIPES
from harness.papers.published import COLUMNS as PUBLISHED_COLUMNS
from harness.papers.published import Figure, published_folder, read_published
from harness.papers.tables import PAPERS
from harness.report.formats import sheets_to_csv, sheets_to_html, sheets_to_latex, sheets_to_markdown
from tests.support import tiny
from tests.support.rows import make_row, with_opencv_5

SSTKD = {"w_re": 5.0, "w_str": 0.9, "w_sta": 1.15, "w_adv": 0.01}
FIGURES = read_published(published_folder(Path("nowhere")))
TABLES = {table.id: table for tables in PAPERS.values() for table in tables}
HEADER = ",".join(PUBLISHED_COLUMNS)
LINE = "cityscapes,val,some protocol,T,S,kd,full,miou,70.1,V,somewhere,"


def network(name: str) -> str:
    architecture, encoder, parameters = NETWORKS[name]
    return json.dumps({"architecture": architecture, "encoder": encoder, "parameters": parameters})


def row(method: str, seed: int, miou: float, student: str = "PSPNet-R18", **changes: Any) -> dict[str, Any]:
    """A row of the recipe of SKD's protocol."""
    teacher = method == "teacher"
    given = changes.pop("given", {})
    entry = method_entry("none" if teacher else method)
    parameters = plain(entry, entry.parameters.model_validate_json(json.dumps(given)))
    made = make_row(
        "none" if teacher else method,
        seed,
        role="teacher" if teacher else "student",
        run_id=f"{method}-{student[:3]}-{seed}-{len(given)}",
        experiment="cityscapes",
        dataset="cityscapes",
        steps=40_000,
        method_parameters=json.dumps(parameters),
        student_network=network("PSPNet-R101" if teacher else student),
        teacher_network=network("PSPNet-R101"),
        recipe=json.dumps({"steps": 40_000, "batch_size": 8, "augment": {"crop_hw": [512, 512]}}),
    )
    return made | {"val_miou": miou / 100} | changes


def built(name: str, rows: list[dict[str, Any]]) -> dict[tuple[str, str], Cell]:
    return {(cell.line, cell.column): cell for cell in grid(name, rows).cells}


def grid(name: str, rows: list[dict[str, Any]]) -> Grid:
    fields = {name: [r.get(name) for r in rows] for name in COLUMNS}
    kinds = {"seed": pa.int64(), "steps": pa.int64(), "trial": pa.int64(), "val_miou": pa.float64()}
    table = pa.table({name: pa.array(values, kinds.get(name, pa.string())) for name, values in fields.items()})
    return build(TABLES[name], prepared(table), FIGURES)


def comparison() -> list[dict[str, Any]]:
    return [
        row("teacher", 0, 78.0),
        *(row("none", seed, value) for seed, value in enumerate([69.0, 69.8, 69.4])),
        *(row("sstkd", seed, value, given=SSTKD) for seed, value in enumerate([72.0, 72.4, 73.0])),
        row("sstkd", 0, 71.0, given=SSTKD | {"w_sta": 0.0}),
    ]


def test_every_figure_of_a_papers_protocol_stands_in_a_table() -> None:
    placed = {
        cell.figure.cell for name in TABLES if TABLES[name].columns for cell in grid(name, []).cells if cell.figure
    }
    of_papers = {*RECIPES, MMSEG_160K, MMSEG_769}
    left = {f.cell for f in FIGURES if f.protocol in of_papers and f.method != "cost" and f.metric == "miou"} - placed
    # Later methods' own figures under CIRKD's protocol, and MMSegmentation's own training.
    assert {cell[5] for cell in left} == {"jml-kd", "kt", "none", "cwd", "teacher"}
    # Of CamVid and COCO-Stuff nothing but the teachers is known under CIRKD's protocol.
    assert {cell[0] for cell in left if cell[5] == "teacher"} == {"camvid", "coco-stuff-164k"}
    assert {cell[6] for cell in left if cell[5] in ("none", "cwd")} == {"mmseg zoo", "mmrazor logits"}


def test_nothing_is_filled_in() -> None:
    for name, table in TABLES.items():
        if not table.columns:
            continue
        for cell in grid(name, []).cells:
            assert cell.measured is None and cell.vs_student is None and cell.gap is None
            assert cell.texts[0] in (
                "not run",
                "method not available",
                "weights not known",
                "network not available",
                "labels not public",
            )
            assert cell.texts[2] == "unverified" or cell.figure is not None
    cells = built("sstkd-table-1", [])
    assert cells["SSTKD", "PSPNet-R18"].texts == ("not run", "–", "75.15 (V2)", "–")
    assert cells["SSTKD", "PSPNet-R18(0.5)"].texts == ("not run", "–", "unverified", "–")


def test_a_measured_cell_by_hand() -> None:
    cells = built("sstkd-table-1", comparison())
    cell = cells["SSTKD", "PSPNet-R18"]
    values, plain = [72.0, 72.4, 73.0], [69.0, 69.8, 69.4]
    measured, difference = score(values), paired_difference(dict(enumerate(values)), dict(enumerate(plain)))
    assert cell.measured is not None and cell.vs_student is not None
    assert cell.measured == measured and measured.deviation == pytest.approx(0.5033, abs=1e-4)
    assert (cell.vs_student.mean, cell.vs_student.low) == pytest.approx((difference.mean, difference.low))
    assert cell.gap == pytest.approx(measured.mean - 75.15)
    assert cell.texts == ("72.47 ± 0.50 (n=3)", f"+3.07 [{difference.low:+.2f}, {difference.high:+.2f}]",
                          "75.15 (V2)", "-2.68")  # fmt: skip
    assert cells["teacher", "PSPNet-R18"].texts == ("78.00 (n=1)", "–", "78.56 (V)", "-0.56")
    assert cells["student", "PSPNet-R18"].vs_student is None
    assert cells["SKD", "PSPNet-R18"].measured is None, "another method's rows are not its own"


def test_an_ablations_rows_are_told_apart_by_their_parameters() -> None:
    cells = built("sstkd-table-2", comparison())
    assert cells["with structural texture", "PSPNet-R18"].texts[0] == "71.00 (n=1)"
    assert cells["with structural texture", "PSPNet-R18"].texts[1] == "no interval (n=1)"
    assert cells["with statistical texture", "PSPNet-R18"].texts[0] == "not run"
    assert cells["SSTKD", "PSPNet-R18"].texts[0].endswith("(n=3)")


def test_other_networks_data_controls_and_trials_are_not_the_papers() -> None:
    for change in (
        {"dataset": "texmosaic"},
        {"student_network": network("DeepLabV3-R18")},
        {"teacher_network": network("DeepLabV3-R101")},
        {"control": "equal seconds"},
        {"trial": 3},
        {"status": "failed", "val_miou": None},
    ):
        cells = built("sstkd-table-1", [r | change for r in comparison()[1:]])
        assert {cell.texts[0] for cell in cells.values()} == {"not run"}, change


def test_a_sum_is_measured_from_its_own_rows() -> None:
    """CIRKD's IFVD is a sum; IFVD with its authors' weights is not what stands in CIRKD's table."""
    (line,) = [line for line in TABLES["cirkd-table-1"].lines if line.title == "IFVD"]
    ours = ours_of(line, Column("DeepLabV3-R18"))
    assert ours is not None and [name for name, _ in parts_of(ours)] == ["ifvd", "skd"]
    networks = {"student_network": network("DeepLabV3-R18"), "teacher_network": network("DeepLabV3-R101")}
    of_authors = row("ifvd", 0, 74.0, **networks)
    of_script = of_authors | {"method": ours[0], "method_parameters": json.dumps(complete(ours)), "run_id": "sum"}
    texts = [built("cirkd-table-1", [r])["IFVD", "DeepLabV3-R18 val"].texts[0] for r in (of_authors, of_script)]
    assert texts == ["not run", "74.00 (n=1)"]
    other = complete(ours) | {"skd.holistic": 0.1}
    cells = built("cirkd-table-1", [of_script | {"method_parameters": json.dumps(other)}])
    assert cells["IFVD", "DeepLabV3-R18 val"].texts[0] == "not run"


def test_another_recipe_is_said() -> None:
    assert not any("Not the published recipe" in note for note in grid("sstkd-table-1", comparison()).notes)
    recipe = json.dumps({"steps": 400, "batch_size": 4, "augment": {"crop_hw": None}})
    notes = grid("sstkd-table-1", [r | {"steps": 400, "recipe": recipe} for r in comparison()]).notes
    for said in ("steps 400 instead of 40000", "images per step 4 instead of 8", "crop none instead of 512x512"):
        assert f"Not the published recipe (cityscapes): {said}." in notes


def test_rows_of_two_comparisons_are_refused() -> None:
    other = [r | {"experiment": "second", "seed": r["seed"] + 5, "run_id": "x" + r["run_id"]} for r in comparison()]
    with pytest.raises(ValueError, match=r"several comparisons fit one cell: .* of cityscapes .* of second"):
        grid("sstkd-table-1", comparison() + other)
    with pytest.raises(ValueError, match="two results for one cell and seed"):
        grid("sstkd-table-1", [*comparison(), row("sstkd", 0, 70.0, given=SSTKD, run_id="again")])
    smaller = [
        r | {"dataset_parameters": '{"dev_fraction": 0.5}'} if r["method"] == "none" else r for r in comparison()
    ]
    with pytest.raises(ValueError, match="several comparisons fit one cell"):
        grid("sstkd-table-1", smaller)
    moved = [r | {"dataset_parameters": json.dumps({"path": f"/data/{r['method']}"})} for r in comparison()]
    grid("sstkd-table-1", moved)


def test_figures_that_are_gains_stand_below_the_table() -> None:
    said = "Published as a gain only: gain of structural texture, +1.63 on PSPNet-R18 (V2)."
    assert said in grid("sstkd-table-2", []).notes and said not in grid("sstkd-table-1", []).notes


def test_all_our_methods_take_the_parameters_of_the_tables() -> None:
    for table in TABLES.values():
        for line in table.lines:
            each = [] if line.ours is None else list(line.ours.values()) if isinstance(line.ours, dict) else [line.ours]
            for name, given in (part for ours in each for part in parts_of(ours)):
                method_entry(name).parameters.model_validate_json(json.dumps(dict(given)))
        assert table.protocol in RECIPES and set(table.networks) <= set(NETWORKS)


def test_costs_stand_beside_the_published_ones() -> None:
    table = next(t for t in PAPERS["sstkd"] if t.networks)
    made = costs(table, {"PSPNet-R18": (13.07, 123.3)}, FIGURES)
    rows = {r[0]: r[1:] for r in made.rows}
    assert rows["PSPNet-R18"] == ("13.07", "13.07 (C)", "+0.00", "123.30", "unverified", "–")
    assert rows["cdm"] == ("not counted", "1.24 (V2)", "–", "not counted", "10.9 (V2)", "–")


def example() -> Grid:
    figure = Figure("d", "val", "p", "t", "s", "m", "", "miou", 71.5, "V", "a & b")
    cell = Cell("a_b & <c>|", "s", "", score([70.0, 71.0]), None, figure)
    return Grid(
        "g", "100 % [of it]", ("method", "s: measured"), (("a_b & <c>|", "70.5 ± 6.35"),), ("x_y ~ 1^2",), (cell,)
    )


def test_formats_escape_what_they_must() -> None:
    assert r"| a\_b \& \<c\>\| | 70.5 ± 6.35 |" in sheets_to_markdown([example().sheet])
    page = sheets_to_html([example().sheet])
    assert "<td>a_b &amp; &lt;c&gt;|</td>" in page and "http" not in page.replace("http-equiv", "")
    latex = sheets_to_latex([example().sheet])
    assert (
        r"a\_b \& \textless{}c\textgreater{}\textbar{} & 70.5 $\pm$ 6.35 \\" in latex
        and r"\caption{100 \% {[}of it]}" in latex
    )
    (line,) = csv.DictReader(io.StringIO(sheets_to_csv([example().sheet])))
    assert (line["mean"], line["published"], line["source"]) == ("70.5", "71.5", "a & b")
    assert float(line["measured_minus_published"]) == -1.0 and line["vs_student"] == ""


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_compiles(tmp_path: Path) -> None:
    body = sheets_to_latex([example().sheet, grid("sstkd-table-1", comparison()).sheet])
    (tmp_path / "t.tex").write_text(
        "\\documentclass{article}\\usepackage[utf8]{inputenc}\\usepackage{booktabs,graphicx}\\begin{document}\n"
        + body
        + "\\end{document}"
    )
    done = subprocess.run(["pdflatex", "-interaction=batchmode", "t.tex"], cwd=tmp_path, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEADER[:-5]}\n{LINE}", r"a\.csv:1: the columns are dataset,split"),
        (f"{HEADER}\n{LINE}x,y", r"a\.csv:2: 12 fields are needed"),
        (f"{HEADER}\n{LINE[:-12]}", r"a\.csv:2: 12 fields are needed"),
        (f"{HEADER}\n{LINE.replace(',V,', ',R,')}", r"a\.csv:2: sure: 'R'; allowed are 'V', 'V2', 'C', 'U'"),
        (f"{HEADER}\n{LINE.replace('val', 'dev')}", r"split: 'dev'; allowed are"),
        (f"{HEADER}\n{LINE.replace('70.1', '0.701')}", r"mIoU is in percent"),
        (f"{HEADER}\n{LINE.replace('70.1', 'seventy')}", r"value: 'seventy' is not a number"),
        (f"{HEADER}\n{LINE.replace('somewhere', ' ')}", r"source: is empty"),
        (f"{HEADER}\n{LINE}\n{LINE.replace('70.1', '70.2')}", r"a\.csv:3: .* is already in .*a\.csv:2"),
    ],
)
def test_wrong_figures_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text + "\n")
    with pytest.raises(ValueError, match=message):
        read_published(tmp_path)


def test_a_users_figures_join(tmp_path: Path) -> None:
    (tmp_path / "published").mkdir()
    assert published_folder(tmp_path) == tmp_path / "published"
    (tmp_path / "published" / "mine.csv").write_text(f"{HEADER}\n{LINE}\n")
    (figure,) = read_published(published_folder(tmp_path))
    assert (figure.value, figure.sure, figure.note) == (70.1, "V", "")
    with pytest.raises(FileNotFoundError, match="there are no published figures"):
        read_published(tmp_path)


@pytest.mark.torch
@pytest.mark.parametrize("paper", PAPERS)
def test_the_command_prints_a_papers_tables(tmp_path: Path, paper: str) -> None:
    file = tiny.write(tmp_path)
    done = CliRunner().invoke(
        app, ["tables", str(file), "--results", str(tmp_path), "--paper", paper, "--format", "csv"]
    )
    assert done.exit_code == 0, done.output
    lines = list(csv.DictReader(io.StringIO(done.output)))
    assert {line["table"] for line in lines} == {table.id for table in PAPERS[paper]}
    if paper == "sstkd":
        cost = next(x for x in lines if (x["method"], x["column"]) == ("PSPNet-R18", "params_m"))
        assert float(cost["mean"]) == pytest.approx(13.07, abs=0.01) and cost["sure"] == "C"
        shown = CliRunner().invoke(app, ["tables", str(file), "--results", str(tmp_path), "--paper", paper])
        assert "75.15 (V2)" in shown.output and "unverified" in shown.output


def test_published_figures_belong_to_a_paper() -> None:
    words = [
        "tables",
        "experiments/quickstart.yaml",
        "--results",
        "results/examples",
        "--published",
        "results/published",
    ]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2 and "--published belongs to --paper" in done.output


@with_opencv_5
def test_a_results_folder_is_a_table_of_all_its_rows(tmp_path: Path) -> None:
    of_file, of_folder = (
        CliRunner().invoke(app, ["tables", what, "--results", "results/examples", "--format", "csv"]).output
        for what in ("experiments/quickstart.yaml", "results/examples/quickstart")
    )
    assert of_folder == of_file != ""
    assert "sstkd" in CliRunner().invoke(app, ["tables", "results/examples/quickstart"]).output
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(app, ["tables", str(tmp_path / "empty")])
    assert done.exit_code == 2 and "no results yet" in done.output
    done = CliRunner().invoke(app, ["tables", "results/examples/quickstart", "--set", "seeds=[0]"])
    assert done.exit_code == 2 and "results/examples/quickstart is a results folder: name the file" in done.output


@with_opencv_5
def test_tables_of_experiments_in_a_format() -> None:
    words = ["tables", "experiments/quickstart.yaml", "--results", "results/examples", "--format"]
    said = CliRunner().invoke(app, [*words, "latex"])
    assert said.exit_code == 0 and r"\caption{quickstart, unet-r18d-to-r10t on texmosaic: mIoU" in said.output
    assert "quickstart,2.0,texmosaic" in CliRunner().invoke(app, [*words, "csv"]).output
