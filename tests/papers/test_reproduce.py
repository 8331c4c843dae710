"""The plan of a paper's table: valid experiments of the protocol's recipe, honest costs, and the state of each cell."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.analysis.stats import score
from harness.cli.app import app
from harness.experiment.load import load
from harness.experiment.plan import plan
from harness.experiment.resources import Resources
from harness.papers.cells import Cell
from harness.papers.lines import ours_of
from harness.papers.measured import complete
from harness.papers.protocols import RECIPES
from harness.papers.published import Figure
from harness.papers.reproduce import BASES, find_table, parts, state
from harness.papers.tables import PAPERS
from harness.results import store
from harness.training.estimate import calibrated
from tests.support import tiny
from tests.support.rows import make_row

EXPERIMENTS = Path("experiments")
TRAINED = [table for tables in PAPERS.values() for table in tables if table.columns]


def call(*words: object) -> Any:
    return CliRunner().invoke(app, ["reproduce", *map(str, words)])


@pytest.mark.parametrize("table", TRAINED, ids=lambda table: table.id)
def test_every_tables_experiments_are_valid_and_of_its_protocol(table: Any, tmp_path: Path) -> None:
    done = call(table.id, "--write", tmp_path)
    assert done.exit_code == 0, done.output
    written = {str(path) for path in tmp_path.glob("*.yaml")}
    assert set(done.output.split()) == written
    assert len(written) == sum(part.data is not None for part in parts(table, EXPERIMENTS))
    for path in written:
        experiment = load(Path(path), here=False)
        recipe, crop = RECIPES[table.protocol], experiment.train.augment.crop_hw
        assert (experiment.train.steps, experiment.train.batch_size) == (recipe.steps, recipe.batch_size)
        assert crop == recipe.crop_hw[experiment.data.name]
        labels = [method.label for method in experiment.methods]
        assert labels[:2] == ["none", "kd"] and len(set(labels)) == len(labels)
        assert experiment.resources.address == "local"


def test_tables_of_one_protocol_share_their_runs(tmp_path: Path) -> None:
    ids = []
    for table in ("sstkd-table-2", "sstkd-table-3"):
        call(table, "--write", tmp_path)
        experiment = load(tmp_path / f"{table}-cityscapes.yaml", here=False)
        assert experiment.name == "skd-cityscapes"
        ids.append({run.run_id for run in plan(experiment)})
    assert len(ids[0] & ids[1]) == 1 + 3 * 5  # the teacher; none, kd and sstkd with five seeds


def test_runs_have_the_parameters_that_cells_look_for(tmp_path: Path) -> None:
    """Sums, too; and each dataset's runs have that dataset's weights only."""
    call("cirkd-table-2", "--write", tmp_path)
    table = find_table("cirkd-table-2")
    for dataset in ("voc2012", "ade20k"):
        runs = load(tmp_path / f"cirkd-table-2-{dataset}.yaml", here=False).methods
        planned = {
            (method.name, json.dumps(method.model_dump(mode="json")["parameters"], sort_keys=True)) for method in runs
        }
        columns = [column for column in table.columns if column.dataset == dataset]
        wanted = [ours_of(line, column) for line in table.lines for column in columns]
        assert planned == {(ours[0], json.dumps(complete(ours), sort_keys=True)) for ours in wanted if ours is not None}


def test_a_protocol_without_a_recipe_here_has_no_plan() -> None:
    done = call("mgd-table-1", "--dry-run")
    assert done.exit_code == 0 and done.output.count("recipe not known here") == 4
    assert "so there is no experiment for it" in done.output


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = call("sstkd-table-1", "--dry-run", "--results", tmp_path / "r")
    assert done.exit_code == 0 and not (tmp_path / "r").exists()
    assert "results/skd-cityscapes: 61 runs, 2,440,000 steps of 8 images; cost not measured" in done.output
    assert "75.15 (V2)" in done.output and "unverified" in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sstkd-table-9"], "unknown table 'sstkd-table-9'. Allowed: sstkd-table-1"),
        (["sstkd-table-5"], "nothing is trained for it"),
        (["--dry-run"], "name a table, or give --page"),
        (["sstkd-table-1", "--page", "x.md"], "name a table, or give --page"),
    ],
)
def test_mistakes_are_named(words: list[str], message: str) -> None:
    done = call(*words)
    assert done.exit_code == 2 and message in done.output


def test_without_a_name_the_tables_are_listed() -> None:
    done = call()
    assert done.exit_code == 0 and [table.id in done.output for table in TRAINED] == [True] * len(TRAINED)


def test_without_the_data_it_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CITYSCAPES", raising=False)
    done = call("sstkd-table-2", "--results", tmp_path)
    assert done.exit_code == 2 and "the environment variable CITYSCAPES is not set" in done.output
    assert (tmp_path / "reproduce" / "sstkd-table-2-cityscapes.yaml").is_file()


def cell(values: list[float], published: float | None = 75.0, line: str = "SSTKD", why_not: str = "") -> Cell:
    figure = None if published is None else Figure("d", "val", "p", "t", "s", "m", "", "miou", published, "V", "x")
    return Cell(line, "s", why_not, score(values) if values else None, None, figure)


def test_states() -> None:
    assert state(cell([], why_not="not run"), 3) == "not run"
    assert state(cell([], why_not="method not available"), 3) == "method not available"
    assert state(cell([75.0, 75.2]), 3) == "running (2 of 3)"
    assert state(cell([70.0, 70.1, 70.2]), 3) == "not reproduced"
    assert state(cell([80.0, 80.1, 80.2]), 3) == "not reproduced"
    # The 90 % interval is +- 2.92 * 0.1 / sqrt(3) = 0.17: within half a point of 75. A wide one says nothing.
    assert state(cell([74.9, 75.0, 75.1]), 3) == "reproduced"
    assert state(cell([74.0, 75.0, 76.0]), 3) == "undecided"
    # Near the margin more seeds decide, in either direction; another margin is another question.
    assert state(cell([75.3, 75.4, 75.5]), 3) == "undecided"
    assert state(cell([75.35, 75.4, 75.45] * 4), 3) == "reproduced"
    assert state(cell([75.55, 75.6, 75.65] * 4), 3) == "not reproduced"
    assert state(cell([75.3, 75.4, 75.5]), 3, margin=1.0) == "reproduced"
    with pytest.raises(ValueError, match="margin=0"):
        state(cell([75.0, 75.1, 75.2]), 3, margin=0)
    assert state(cell([74.9, 75.0, 75.1], published=None), 3) == "measured"
    assert state(cell([78.0], line="teacher"), 3) == "measured"


def test_rows_change_the_state(tmp_path: Path) -> None:
    call("sstkd-table-2", "--write", tmp_path)
    experiment = load(tmp_path / "sstkd-table-2-cityscapes.yaml", here=False)
    finished = {"none": 5, "sstkd(w_re=5.0, w_str=0.9, w_adv=0.01)": 2}
    for run in plan(experiment):
        if run.role == "teacher" or run.seed >= finished.get(run.method.label, 0):
            continue
        spec = run.model_dump(mode="json")
        changes = {
            "run_id": run.run_id,
            "experiment": experiment.name,
            "dataset": "cityscapes",
            "dataset_parameters": json.dumps(spec["data"]["parameters"]),
            "steps": run.train.steps,
            "method_parameters": json.dumps(spec["method"]["parameters"]),
            "student_network": json.dumps(spec["network"]),
            "teacher_network": json.dumps(spec["teacher"]),
            "recipe": json.dumps(spec["train"]),
            "val_miou": 0.691 + 0.001 * (run.seed - 2),
        }
        store.write_run(tmp_path / experiment.name, make_row(run.method.name, run.seed, **changes))
    done = call("sstkd-table-2", "--dry-run", "--results", tmp_path)
    lines = {line.split()[0]: line for line in done.output.splitlines() if line.strip()}
    assert lines["student"].rstrip().endswith(" reproduced") and "69.10 ±" in lines["student"]
    assert lines["SSTKD"].rstrip().endswith("running (2 of 5)")
    file = tmp_path / "sstkd-table-2-cityscapes.yaml"
    words = ["tables", str(file), "--paper", "sstkd", "--results", str(tmp_path)]
    shown = " ".join(CliRunner().invoke(app, words).output.split())
    assert "skd-cityscapes trains on less data: 0.05 of train is held out as its dev split." in shown
    assert "Not the published recipe" not in shown


def test_the_docs_page_is_what_the_command_writes(tmp_path: Path) -> None:
    done = call("--page", tmp_path / "page.md", "--results", tmp_path)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "page.md").read_text() == Path("docs/reproduction.md").read_text(), (
        "docs/reproduction.md is old: sstkd-bench reproduce --page docs/reproduction.md"
    )


def test_a_calibration_needs_no_data(tmp_path: Path) -> None:
    whole = tiny.plan(tmp_path, "train.augment.crop_hw=null")
    with pytest.raises(ValueError, match="needs the crop size"):
        calibrated(whole, Resources())
    cropped = tiny.plan(tmp_path, "train.augment.crop_hw=[64, 64]")
    seconds, device = calibrated(cropped, Resources())
    assert device.startswith("CPU ") and set(seconds) == {(run.pair, run.role, run.method.label) for run in cropped}
    assert all(value > 0 for value in seconds.values())


def test_the_files_that_recipes_come_from_are_there() -> None:
    assert {name for name in BASES.values() if not (EXPERIMENTS / name).is_file()} == set()
