"""Searches of the tiny experiment, and rows of their trials that no network was trained for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness.experiment.load import load
from harness.experiment.space import FACTOR
from harness.experiment.spec import Experiment
from harness.experiment.studies import Study, studies_of, trial_run
from harness.results import paths, record
from harness.search import points
from tests.support import tiny

TUNED: dict[str, Any] = {"protocol": {"ruleset": "tuned"}, "search": {"trials": 4, "lr": [0.001, 0.01]}}


def experiment(folder: Path, *overrides: str, **changes: Any) -> Experiment:
    """The tiny experiment with four trials of every method."""
    return load(tiny.write(folder, **(TUNED | changes)), overrides)


def searched(folder: Path, algorithm: str, *overrides: str, **changes: Any) -> Experiment:
    """The same under the ruleset `searched`."""
    rules = {"protocol": {"ruleset": "searched"}, "search": {**TUNED["search"], "algorithm": algorithm}}
    return experiment(folder, *overrides, **(rules | changes))


Result = dict[str, Any]


def write_trial(directory: Path, study: Study, number: int, values: dict[str, float], **result: Any) -> str:
    """A row of a trial; `result` may have seed, status, message, dev_miou, step_ms, seconds."""
    run = trial_run(study, number, "sobol", values, result.get("seed"))
    status = result.get("status", "ok")
    miou = result.get("dev_miou", 0.5 if status == "ok" else None)
    columns: dict[str, Any] = {"num_classes": 2, "dev_confusion": [1, 0, 0, 1], "dev_miou": miou}
    columns |= {"step_ms": result.get("step_ms", 10.0)}
    if status != "failed":
        columns |= {"train_seconds": result.get("seconds", 2.0) - 0.5, "eval_seconds": 0.5}
    else:
        columns |= {"wall_seconds": result.get("seconds", 2.0)}
    record.write_row(
        run, paths.search_folder(directory), columns, status, "" if status == "ok" else result.get("message", "why")
    )
    return run.run_id


def write_point(directory: Path, study: Study, number: int, values: dict[str, float], *scores: float | None) -> None:
    """Rows of a point's trials with the search seeds, in their order; a score of None is a failed trial."""
    for seed, score in zip(study.seeds, scores, strict=False):
        status = "failed" if score is None else "ok"
        write_trial(directory, study, number, values, seed=seed, dev_miou=score, status=status)


def fill(directory: Path, of: Experiment, score: Callable[[Study, dict[str, float]], float]) -> None:
    """A finished trial for every pre-drawn point and search seed."""
    studies = studies_of(of)
    for study, drawn in zip(studies, points.drawn(of, studies), strict=True):
        for number, values in enumerate(drawn):
            write_point(directory, study, number, values, *[score(study, values)] * len(study.seeds))


def rises_with(name: str) -> Callable[[Study, dict[str, float]], float]:
    """A score that only one hyper-parameter decides; the common factor counts as each of them."""
    return lambda study, values: float(0.5 + 0.1 * np.tanh(np.log(values.get(name, values.get(FACTOR, 1.0)))))
