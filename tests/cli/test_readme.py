"""The tables in README and docs equal those computed from the committed rows."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

import harness
from harness.analysis.comparison import COLUMNS, quick_table
from harness.analysis.export_sheets import sheets
from harness.analysis.exports import read as read_exported
from harness.cli.app import app
from harness.experiment import rules
from harness.experiment.load import load
from harness.experiment.plan import plan
from harness.experiment.spec import Experiment
from harness.report.formats import sheets_to_markdown, to_markdown
from harness.results import paths, step_times, store
from tests.support import methods_page, search_page
from tests.support.pretrained_page import score_lines
from tests.support.rows import with_opencv_5
from tests.support.sensitivity_page import page_lines

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "results" / "examples" / "quickstart"


def lines_of(directory: Path, experiment: Experiment, ids: list[str] | None = None) -> list[str]:
    """The Markdown table and its single-pixel baseline, from rows."""
    rows = store.read_rows(directory, list(COLUMNS), run_ids=ids)
    table = quick_table(rows, [method.label for method in experiment.methods], experiment.seeds)
    return [line for line in to_markdown(table).splitlines() if line.startswith(("|", "Single-pixel baseline"))]


def test_the_readme_shows_what_the_example_rows_give() -> None:
    experiment = load(ROOT / "experiments" / "quickstart.yaml")
    ids = [run.run_id for run in harness.Bench(experiment, EXAMPLE.parent).runs()]
    assert set(store.finished(EXAMPLE)) == set(ids), (
        "the example rows belong to another version of the quickstart: run it and copy its rows"
    )
    lines = lines_of(EXAMPLE, experiment, ids)
    assert len(lines) == 8
    readme = (ROOT / "README.md").read_text().splitlines()
    assert [line for line in lines if line not in readme] == []
    start = (ROOT / "docs" / "index.md").read_text()
    for line in lines[1:]:
        assert "|".join(line.split("|")[:6]) + "|\n" in start, "the start page has the first columns"


@pytest.mark.parametrize(("file", "page", "methods"), [("believe", "believe", 5), ("ablation_sstkd", "sstkd", 12)])
def test_a_page_with_a_table_shows_what_its_rows_give(file: str, page: str, methods: int) -> None:
    experiment = load(ROOT / "experiments" / f"{file}.yaml")
    lines = lines_of(EXAMPLE.parent / experiment.name, experiment)
    written = (ROOT / "docs" / f"{page}.md").read_text().splitlines()
    assert not any("not run" in line for line in lines) and len(lines) == 2 + methods + 1
    assert [line for line in lines if line not in written] == []


def test_the_page_on_a_search_shows_what_its_rows_give() -> None:
    experiment = load(ROOT / "experiments" / "quickstart_tuned.yaml")
    table, points, said = search_page.page_lines(experiment, EXAMPLE.parent / experiment.name)
    written = (ROOT / "docs" / "search.md").read_text()
    assert (len(table), len(points), len(said)) == (8, 6, 5) and not any("not run" in line for line in table)
    assert "\n".join(table[1:]) in written and "\n".join(points) in written and table[0] in written
    assert [text for text in said if f"- {text}.\n" not in written] == []


@pytest.mark.parametrize("name", ["compare_distillers", "positive_controls"])
def test_the_tables_of_every_method_show_what_their_rows_give(name: str) -> None:
    experiment = load(ROOT / "experiments" / f"{name}.yaml")
    lines = methods_page.table_lines(EXAMPLE.parent / experiment.name, experiment)
    written = (ROOT / "docs" / "distillers.md").read_text().splitlines()
    assert len(lines) == 2 + len(rules.labels(experiment)) and [line for line in lines if line not in written] == []


def test_the_page_of_pretrained_networks_shows_what_its_rows_give(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CAMVID", str(tmp_path))
    bench = harness.Bench(load(ROOT / "experiments" / "pretrained.yaml"), EXAMPLE.parent)
    times = step_times.times(bench.experiment, bench.directory, "pretrained.yaml")
    runs = plan(bench.experiment, times=times)  # the photographs are not here, so the bench itself would refuse
    finished = store.finished(bench.directory)
    missing = [run for run in runs if run.run_id not in finished]
    assert missing == [] and len(finished) == len(runs) == 11
    rows = store.read_rows(bench.directory, list(COLUMNS))
    table = quick_table(rows, rules.labels(bench.experiment), bench.experiment.seeds)
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("|")]
    shown = ["|".join(["", *(line.split("|")[i] for i in (1, 2, 3, 4, 5)), ""]) for line in lines]
    shown += score_lines(bench.directory)
    written = (ROOT / "docs" / "pretrained.md").read_text().splitlines()
    assert len(shown) == 7 + 8 and [line for line in shown if line not in written] == []
    for run_id in finished:
        for sample in store.read_row(paths.run_path(bench.directory, run_id))["samples"]:
            assert sample["image"] is None and sample["label"] is None


def test_the_page_on_exports_shows_what_its_rows_give(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAMVID", str(tmp_path))
    experiment = load(ROOT / "experiments" / "pretrained.yaml")
    directory = EXAMPLE.parent / experiment.name
    rows = store.read_rows(directory, list(COLUMNS))
    table = quick_table(rows, rules.labels(experiment), experiment.seeds)
    found = sheets(read_exported(directory, table), experiment.name)
    lines = [line for line in sheets_to_markdown(found).splitlines() if line.startswith("|")]
    assert len(found) == 2 and len(lines) == 2 * (2 + 5) and not any("n=1" in line for line in lines)
    written = (ROOT / "docs" / "export.md").read_text().splitlines()
    assert [line for line in lines if line not in written] == []


@pytest.mark.parametrize(
    "overrides",
    [[], ["name=sensitivity-texmosaic", "data={name: texmosaic, parameters: {equalize: false}}"]],
    ids=["landcover", "texmosaic"],
)
def test_the_page_on_sensitivity_shows_what_its_rows_give(overrides: list[str]) -> None:
    experiment = load(ROOT / "experiments" / "sensitivity.yaml", overrides)
    directory = EXAMPLE.parent / experiment.name
    rows = store.read_rows(directory, ["role", "seed", "status"]).to_pylist()
    assert {row["seed"] for row in rows if row["role"] == "student"} == {0, 1, 2, 3, 4}, "as the page says"
    written = (ROOT / "docs" / "sensitivity.md").read_text()
    assert "\n".join(page_lines(directory, experiment)) in written


@pytest.mark.parametrize(
    "page", [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "experiments" / "README.md"]
)
def test_links_between_pages_resolve(page: Path) -> None:
    import re

    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith(("https://", "http://")) or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_texmosaic_page_shows_what_the_example_rows_give() -> None:
    columns = ["role", "method", "seed", "dev_miou", "val_miou", "floor_dev_miou", "floor_val_miou", "steps", "control"]
    rows = sorted(store.read_rows(EXAMPLE, columns).to_pylist(), key=lambda row: row["seed"])
    teacher = next(row for row in rows if row["role"] == "teacher")
    shown = [
        f"| single-pixel baseline | {100 * teacher['floor_dev_miou']:.2f} | {100 * teacher['floor_val_miou']:.2f} |"
    ]
    shown += [
        f"| teacher, {teacher['steps']} steps | {100 * teacher['dev_miou']:.1f} | {100 * teacher['val_miou']:.1f} |"
    ]
    students = [row for row in rows if row["role"] == "student" and row["control"] is None]
    means = {}
    for method in ("none", "kd", "cwd", "sstkd"):
        mine = [row for row in students if row["method"] == method]
        dev, val = ([100 * row[split] for row in mine] for split in ("dev_miou", "val_miou"))
        means[method] = sum(dev) / len(dev), sum(val) / len(val)
        name = "none, seeds 0 to 4" if method == "none" else method
        shown.append(f"| {name} | {', '.join(f'{x:.1f}' for x in dev)} | {', '.join(f'{x:.1f}' for x in val)} |")
    ahead = [100 * teacher[split] - mean for split, mean in zip(("dev_miou", "val_miou"), means["none"], strict=True)]
    shown.append(
        "Teacher minus student without distillation: {:.1f} percentage points on dev, {:.1f} on val.".format(*ahead)
    )
    written = (ROOT / "docs" / "texmosaic.md").read_text()
    assert [line for line in shown if line not in written] == []


@with_opencv_5
def test_the_page_of_comparisons_shows_what_its_rows_give(tmp_path: Path) -> None:
    files = [f"experiments/{name}.yaml" for name in ("quickstart", "believe")]
    done = CliRunner().invoke(app, ["compare", *files, "--results", str(EXAMPLE.parent), "--to", str(tmp_path)])
    assert done.exit_code == 0, done.output
    parts = (tmp_path / "compare.md").read_text().split("\n## ")
    lines = [line for part in parts if part.startswith(("Standings", "Gains")) for line in part.splitlines()]
    shown = [line for line in lines if line.startswith(("|", "- "))]
    written = (ROOT / "docs" / "compare.md").read_text().splitlines()
    assert len(shown) == 19 and [line for line in shown if line not in written] == []
