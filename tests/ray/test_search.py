"""Searches through Ray Tune against the same trials in this process; what ends them early, and what interrupts them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.experiment.plan import outline
from harness.experiment.space import LR
from harness.experiment.spec import Experiment, Run
from harness.experiment.studies import Study, studies_of, trial_run
from harness.results import paths, store
from harness.search import outcome as best
from harness.search import points, tuner
from harness.search.status import TrialUpdate
from harness.search.tuner import search
from tests.support import cluster, tiny
from tests.support.searches import TUNED, experiment, searched

pytestmark = [pytest.mark.ray, *cluster.QUIET]

MEASURED = (
    "dev_confusion",
    "dev_miou",
    "curve",
    "losses",
    "student_init_sha256",
    "teacher_sha256",
    "method_parameters",
)
CPUS = len(os.sched_getaffinity(0))


def trained(folder: Path, of: Experiment) -> None:
    """Train the teachers in this process."""
    for run in outline(of):
        if run.role == "teacher":
            assert tiny.in_process(run, folder) == "ok"


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Whole rows of the trials by run_id."""
    found = (store.read_row(path) for path in (folder / "runs").glob("*.parquet"))
    return {row["run_id"]: row for row in found if row["role"] == "student"}


def measured(folder: Path) -> dict[str, dict[str, Any]]:
    return {run_id: {key: row[key] for key in MEASURED} for run_id, row in rows(folder).items()}


def drawn_runs(of: Experiment) -> list[Run]:
    studies = studies_of(of)
    pairs: list[tuple[Study, Any]] = list(zip(studies, points.drawn(of, studies), strict=True))
    return [
        trial_run(s, n, "sobol", values, seed)
        for s, drawn in pairs
        for n, values in enumerate(drawn)
        for seed in s.seeds
    ]


@pytest.mark.smoke
def test_tuned_trials_are_those_of_one_process_and_none_hangs(one_ray: None, tmp_path: Path) -> None:
    """More trials than CPUs, as many at once as there are; what a trial leaves is a row without val and weights."""
    trials = max(2, CPUS // 2)
    of = experiment(tmp_path, f"search.trials={trials}", methods=["none", {"kd": {"temperature": 2}}])
    here, there = tmp_path / "here", tmp_path / "tiny"
    for folder in (here, there):
        trained(folder, of)
    for run in drawn_runs(of):
        assert tiny.in_process(run, here) == "ok"
    told: list[TrialUpdate] = []
    search(of, there, told.append)
    folder = paths.search_folder(there)
    assert measured(folder) == measured(here)
    assert len(rows(folder)) == 2 * 2 * trials and {each.seed for each in told} == {1000, 1001}
    assert {row["seed"] for row in rows(folder).values()} == {1000, 1001}
    began = [each.status for each in told].index("ok")
    assert began == min(CPUS, 2 * 2 * trials), "all CPUs were at work before the first trial ended"
    for row in rows(folder).values():
        assert row["val_miou"] is None and row["val_confusion"] is None and row["weights_sha256"] is None
        assert row["samples"] is None and row["trial"] is not None and row["ruleset"] == "tuned"
    assert not list(folder.glob("checkpoints/*")) and not (folder / "tune").exists()
    # Everything is there: nothing is started, not even Ray.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner, "connected", lambda resources: pytest.fail("Ray is started"))
        search(of, there, told.append)
    assert set(best.found(of, there, "F")) == {("tiny", "none"), ("tiny", "kd(temperature=2.0)")}


def test_trials_in_step_are_those_of_one_process(one_ray: None, tmp_path: Path) -> None:
    """Points of one search seed are fed alike, whatever they set; seeds are not."""
    of = experiment(
        tmp_path, "search.trials=3", "resources.together=auto", methods=["none", {"kd": {"temperature": 2}}]
    )
    here, there = tmp_path / "here", tmp_path / "tiny"
    for folder in (here, there):
        trained(folder, of)
    for run in drawn_runs(of):
        assert tiny.in_process(run, here) == "ok"
    told: list[TrialUpdate] = []
    search(of, there, told.append)
    found = rows(paths.search_folder(there))
    assert measured(paths.search_folder(there)) == measured(here)
    beside = {seed: {row["together"] for row in found.values() if row["seed"] == seed} for seed in (1000, 1001)}
    assert all(max(each) > 1 and max(each) <= 6 for each in beside.values())
    ended = {(each.method, each.trial, each.seed): each for each in told if each.status == "ok"}
    assert len(ended) == len(found) == 2 * 2 * 3
    assert all(each.dev_miou is not None and each.seconds > 0 for each in ended.values())


@pytest.mark.parametrize("together", [1, "auto"])
def test_a_trial_that_fails_is_a_row_and_is_spent(one_ray: None, tmp_path: Path, together: int | str) -> None:
    """A learning rate that diverges at once, but for the published point."""
    options = ("search.lr=[1e20, 1e25]", "search.trials=2", f"resources.together={together}")
    of = experiment(tmp_path, *options, methods=["none"])
    search(of, tmp_path / "tiny", lambda told: None)
    (outcome,) = best.outcomes(of, tmp_path / "tiny")
    assert (outcome.count("ok"), outcome.count("failed"), outcome.complete) == (2, 2, True)
    assert all(trial.seconds > 0 for trial in outcome.trials) and "not finite" in outcome.trials[2].message
    assert outcome.best is not None and outcome.best.number == 0
    assert best.found(of, tmp_path / "tiny", "F")["tiny", "none"].point == {LR: 0.002}


def test_asha_ends_trials_and_counts_what_they_took(one_ray: None, tmp_path: Path) -> None:
    """One at a time, the best first: those after it fall behind."""
    options = ("train.eval_every=2", "search.grace=2", "search.reduction=4", "resources.concurrent=1")
    of = searched(tmp_path, "asha", *options, "search.trials=6", methods=["none"])
    search(of, tmp_path / "tiny", lambda told: None)
    (outcome,) = best.outcomes(of, tmp_path / "tiny")
    assert len(outcome.trials) == 6 and outcome.best is not None
    assert outcome.count("skipped") >= 1 and outcome.count("ok") + outcome.count("skipped") == 6
    for trial in outcome.trials:
        if trial.status == "skipped":
            row = store.read_row(paths.run_path(paths.search_folder(tmp_path / "tiny"), trial.run_id))
            step = row["curve"][-1]["step"]
            assert trial.message == f"pruned at step {step} of 6 by asha" and step in (2, 4)
            assert row["dev_miou"] == row["curve"][-1]["dev_miou"] and 0 < trial.seconds < outcome.seconds
    source = best.found(of, tmp_path / "tiny", "F")["tiny", "none"].source
    assert source.trials == 6 and source.seconds == pytest.approx(sum(t.seconds for t in outcome.trials))


@pytest.mark.parametrize("algorithm", ["tpe", "hyperband"])
def test_every_algorithm_ends_with_a_best_point(one_ray: None, tmp_path: Path, algorithm: str) -> None:
    """TPE in two halves: the second one learns of the first from its rows."""
    pytest.importorskip("optuna")
    of = searched(tmp_path, algorithm, "train.eval_every=2", "train.steps=4", methods=["none"])
    search(of, tmp_path / "tiny", lambda told: None)
    (outcome,) = best.outcomes(of, tmp_path / "tiny")
    assert [trial.number for trial in outcome.trials] == [0, 1, 2, 3] and outcome.best is not None
    assert len({trial.values[LR] for trial in outcome.trials}) == 4
    assert algorithm == "hyperband" or outcome.count("ok") == 4
    if algorithm != "tpe":
        return
    folder = paths.search_folder(tmp_path / "tiny")
    kept = {trial.run_id for trial in outcome.trials[:2]}
    for trial in outcome.trials[2:]:
        paths.run_path(folder, trial.run_id).unlink()
    search(of, tmp_path / "tiny", lambda told: None)
    (again,) = best.outcomes(of, tmp_path / "tiny")
    assert [trial.number for trial in again.trials] == [0, 1, 2, 3]
    assert {trial.run_id for trial in again.trials[:2]} == kept and len({t.values[LR] for t in again.trials}) == 4


def test_a_search_ends_when_its_time_is_up(one_ray: None, tmp_path: Path) -> None:
    of = searched(tmp_path, "random", "search.trials=50", "search.minutes=0.01", methods=["none"])
    search(of, tmp_path / "tiny", lambda told: None)
    (outcome,) = best.outcomes(of, tmp_path / "tiny")
    assert outcome.complete and len(outcome.trials) < 50
    assert all("the time of the search is up" in t.message for t in outcome.trials if t.status == "skipped")


def test_a_search_can_be_killed_and_repeated(tmp_path: Path) -> None:
    """SIGKILL when some trials have rows and others run; the same command ends with all of them, none twice."""
    file = tiny.write(tmp_path, **TUNED | {"methods": ["none"]})
    overrides = ("search.trials=2", "train.steps=30", "train.eval_every=5")
    command = [sys.executable, "-m", "harness.cli", "tune", str(file), "--results", str(tmp_path / "results")]
    command += [word for override in overrides for word in ("--set", override)]
    directory = tmp_path / "results" / "tiny"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + cluster.PATIENCE
    while not (
        list(directory.glob("search/runs/*.parquet")) and list(directory.glob("search/checkpoints/*/step-*.pt"))
    ):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=cluster.PATIENCE)
    before = set(rows(directory / "search"))
    again = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=cluster.PATIENCE, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    found = rows(directory / "search")
    assert before < set(found) and len(found) == 4
    assert sorted(row["trial"] for row in found.values()) == [0, 0, 1, 1]
    assert {row["status"] for row in found.values()} == {"ok"}
    # Taken up from a checkpoint or not, a trial is what it would have been.
    of = experiment(tmp_path, *overrides, methods=["none"])
    for run in drawn_runs(of):
        assert tiny.in_process(run, tmp_path / "undisturbed") == "ok"
    assert measured(directory / "search") == measured(tmp_path / "undisturbed")
