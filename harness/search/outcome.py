"""The outcome of a search: from the rows of its trials to the best point of every method on every pair.

A trial is a run of one point with one search seed. The score of a point is the mean of its trials' dev mIoU at the last
step; a point with a trial that failed, was ended early or is missing has no score and is not selected.
"""

import functools
import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.experiment.rules import SOBOL, Found, Key
from harness.experiment.search_settings import Source
from harness.experiment.space import FACTOR, LR, point_of, settings_of, values_in
from harness.experiment.spec import Experiment
from harness.experiment.studies import Study, studies_of
from harness.files import write_atomic
from harness.results import store
from harness.results.paths import search_folder
from harness.search.points import proposer, require_same

FILE = "best.parquet"
HEADER = ("pair", "method", "mIoU (dev) %", "best point", "trials", "time")


@dataclass(frozen=True)
class TrialResult:
    """One finished trial.

    Attributes:
        run_id, seed, status, message: from its row.
        number: of its point.
        values: of every dimension of the space.
        point: the values that have an effect.
        dev_miou: in [0, 1], of its last evaluation; None if there was none.
        step_ms: median time of a training step; None if unknown.
        seconds: of training and evaluation; of a failed trial the whole time.
    """

    run_id: str
    number: int
    seed: int
    status: str
    message: str
    values: dict[str, float]
    point: dict[str, float]
    dev_miou: float | None
    step_ms: float | None
    seconds: float


@dataclass(frozen=True)
class PointResult:
    """One point, with its trials of all search seeds.

    Attributes:
        number: 0 is the published point under the ruleset `tuned`.
        trials: in the order of the search seeds; those that have finished.
        dev_miou: in [0, 1], the mean over the search seeds; None unless every one has a successful trial.
    """

    number: int
    trials: tuple[TrialResult, ...]
    dev_miou: float | None

    @property
    def point(self) -> dict[str, float]:
        """The values that have an effect."""
        return self.trials[0].point

    @property
    def step_ms(self) -> float | None:
        """Median time of a training step, the mean over the trials; None if unknown."""
        known = [trial.step_ms for trial in self.trials if trial.step_ms is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Outcome:
    """The search of one method on one pair.

    Attributes:
        study: what was searched.
        trials: the finished ones, by number and search seed.
        wanted: the number of trials asked for, of all search seeds.
        minutes: worker minutes after which the search ends even with fewer trials.
        algorithm: that proposed the trials.
    """

    study: Study
    trials: tuple[TrialResult, ...]
    wanted: int
    minutes: float | None
    algorithm: str

    @property
    def seconds(self) -> float:
        """Total over all trials, including those ended early and failed ones."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def complete(self) -> bool:
        """Whether every trial is finished, or the time is up."""
        return len(self.trials) >= self.wanted or (self.minutes is not None and self.seconds >= 60 * self.minutes)

    def count(self, status: str) -> int:
        """How many trials have this status: ok, skipped (ended early) or failed."""
        return sum(trial.status == status for trial in self.trials)

    @functools.cached_property
    def points(self) -> tuple[PointResult, ...]:
        """The points with a finished trial, by number."""
        return tuple(
            _point(number, tuple(trials), len(self.study.seeds))
            for number, trials in itertools.groupby(self.trials, key=lambda trial: trial.number)
        )

    @property
    def best(self) -> PointResult | None:
        """The point with the highest score, the first of equals; None if none has a score."""
        return best_of(self.points)

    @property
    def tied(self) -> tuple[PointResult, ...]:
        """The other points with the same score."""
        best = self.best
        return tuple(p for p in self.points if best is not None and p is not best and p.dev_miou == best.dev_miou)

    @property
    def source(self) -> Source:
        """What the row of a final run records about the search."""
        text = " ".join(sorted(trial.run_id for trial in self.trials))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return Source(trials=len(self.trials), seconds=self.seconds, sha256=digest)

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells of a table line, one per column of `HEADER`."""
        best = self.best
        counts = (("ok", "ok"), ("skipped", "ended early"), ("failed", "failed"))
        trials = f"{len(self.trials)} of {self.wanted}: " if len(self.trials) < self.wanted else ""
        trials += ", ".join(f"{n} {word}" for status, word in counts if (n := self.count(status))) or "none"
        if len(self.trials) < self.wanted and self.complete:
            trials += "; time is up"
        score = "–" if best is None else f"{100 * (best.dev_miou or 0.0):.2f}"
        if self.tied:
            score += f" (tie of {1 + len(self.tied)}, the first is taken)"
        return (*self.study.key, score, "–" if best is None else self.said(best), trials, f"{self.seconds:.0f} s")

    def said(self, point: PointResult) -> str:
        """A point as text: `lr=0.002, loss weights x 0.5`, or `lr=0.003, loss weights x 1 (published)`."""
        return said(point.point) + (" (published)" if self.algorithm == SOBOL and point.number == 0 else "")


def best_of(points: Iterable[PointResult]) -> PointResult | None:
    """The point with the highest score, the first of equals; None if none has a score."""
    scored = [point for point in points if point.dev_miou is not None]
    return max(scored, key=lambda point: point.dev_miou or 0.0, default=None)  # max takes the first of equals


def _point(number: int, trials: tuple[TrialResult, ...], seeds: int) -> PointResult:
    scores = [trial.dev_miou for trial in trials if trial.status == "ok" and trial.dev_miou is not None]
    return PointResult(number, trials, sum(scores) / seeds if len(scores) == seeds else None)


def said(point: Mapping[str, float]) -> str:
    """The values of a point as text: `lr=0.002, weight=1.5`."""
    signs = {LR: "lr=", FACTOR: f"{FACTOR} x "}
    return ", ".join(f"{signs.get(name, f'{name}=')}{value:g}" for name, value in point.items())


def outcomes(experiment: Experiment, directory: Path) -> list[Outcome]:
    """The search's outcome from the rows below `directory`, the experiment's results folder, study by study.

    Raises:
        ValueError: the experiment has no search, the folder holds a different one, or a row is corrupt.
    """
    studies, search = studies_of(experiment), experiment.search
    assert search is not None
    require_same(search_folder(directory), experiment, studies)
    columns = ("run_id", "status", "message", "pair", "seed", "trial", "trial_method", "method_parameters", "recipe")
    measured = ("dev_miou", "step_ms", "train_seconds", "eval_seconds", "wall_seconds")
    rows = store.read_rows(search_folder(directory), [*columns, *measured]).to_pylist()
    by_key: dict[Key, list[dict[str, Any]]] = {}
    for row in rows:
        if row["trial"] is not None:
            by_key.setdefault((row["pair"], row["trial_method"]), []).append(row)
    return [
        Outcome(
            study,
            _in_order([_trial_result(study, row) for row in by_key.get(study.key, [])], study.seeds),
            search.trials * len(study.seeds),
            search.minutes,
            proposer(experiment),
        )
        for study in studies
    ]


def _in_order(trials: list[TrialResult], seeds: tuple[int, ...]) -> tuple[TrialResult, ...]:
    """Trials by point, then in the order of the search seeds; a trial with another seed is of no use and left out."""
    return tuple(sorted((t for t in trials if t.seed in seeds), key=lambda t: (t.number, seeds.index(t.seed))))


def _trial_result(study: Study, row: Mapping[str, Any]) -> TrialResult:
    lr = json.loads(row["recipe"])["optimizer"]["lr"]
    values = values_in(study.space, json.loads(row["method_parameters"]), lr)
    same = ("run_id", "seed", "status", "message", "dev_miou", "step_ms")
    point = point_of(study.space, values)
    return TrialResult(
        **{key: row[key] for key in same}, number=row["trial"], values=values, point=point, seconds=spent(row)
    )


def spent(columns: Mapping[str, Any]) -> float:
    """Seconds of training and evaluation; the wall time where these are unknown."""
    if columns.get("train_seconds") is None:
        return float(columns.get("wall_seconds") or 0.0)
    return float(columns["train_seconds"] + (columns["eval_seconds"] or 0.0))


def found(experiment: Experiment, directory: Path, file: str) -> dict[Key, Found]:
    """The best point of every method on every pair.

    Args:
        experiment: with a search.
        directory: its results folder.
        file: the experiment file, for the command in the message.

    Raises:
        ValueError: the search is not complete, or a method has no finished trial; a line for each.
    """
    problems: list[str] = []
    points: dict[Key, Found] = {}
    for outcome in outcomes(experiment, directory):
        name = ", ".join(outcome.study.key)
        best = outcome.best
        if not outcome.complete:
            problems.append(
                f"{search_folder(directory)}: {name}: {len(outcome.trials)} of {outcome.wanted} trials are finished. "
                f"Finish the search: sstkd-bench tune {file}"
            )
        elif best is None:
            why = next((trial.message for trial in outcome.trials if trial.status != "ok"), "no dev mIoU")
            tried = f"{len(outcome.trials)} trials was successful"
            if len(outcome.study.seeds) > 1:
                tried = f"{len(outcome.points)} points was successful with every search seed"
            problems.append(
                f"{search_folder(directory)}: {name}: none of its {tried} ({why}). Fix the cause, then "
                f"delete their rows and run: sstkd-bench tune {file}"
            )
        else:
            points[outcome.study.key] = Found(settings_of(outcome.study.space, best.point), outcome.source)
    if problems:
        raise ValueError("\n".join(problems))
    return points


def write(results: Sequence[Outcome], directory: Path) -> Path:
    """Write the best points and what the search cost as a table; returns its file.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    path = search_folder(directory) / FILE
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([_line(each) for each in results], schema=_SCHEMA), sink)
    write_atomic(path, sink.getvalue())
    return path


_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("pair", "method", "ruleset", "algorithm")),
        *((name, pa.int64()) for name in ("wanted", "ok", "ended_early", "failed")),
        ("seconds", pa.float64()),
        ("trials_sha256", pa.string()),
        # Of the best point; null where none was successful. The run_id is that of its trial with the first search seed.
        ("run_id", pa.string()),
        ("trial", pa.int64()),
        ("point", pa.string()),  # JSON: value by hyper-parameter, the learning rate as `optimizer.lr`
        ("dev_miou", pa.float64()),  # the mean over the search seeds
        ("step_ms", pa.float64()),
        ("tied", pa.list_(pa.string())),  # run_ids of other points with the same dev_miou, with the first search seed
        ("seeds", pa.list_(pa.int64())),  # the search seeds
        ("dev_miou_by_seed", pa.list_(pa.float64())),  # of the best point, in the order of `seeds`
    ]
)


def _line(outcome: Outcome) -> dict[str, Any]:
    best, source = outcome.best, outcome.source
    line = {
        "pair": outcome.study.template.pair,
        "method": outcome.study.label,
        "ruleset": outcome.study.template.protocol.ruleset,
        "algorithm": outcome.algorithm,
        "wanted": outcome.wanted,
        "ok": outcome.count("ok"),
        "ended_early": outcome.count("skipped"),
        "failed": outcome.count("failed"),
        "seconds": source.seconds,
        "trials_sha256": source.sha256,
        "tied": [point.trials[0].run_id for point in outcome.tied],
        "seeds": list(outcome.study.seeds),
    }
    if best is not None:
        line |= {"run_id": best.trials[0].run_id, "trial": best.number}
        line |= {"point": json.dumps(settings_of(outcome.study.space, best.point))}
        line |= {"dev_miou": best.dev_miou, "step_ms": best.step_ms}
        line |= {"dev_miou_by_seed": [trial.dev_miou for trial in best.trials]}
    return line
