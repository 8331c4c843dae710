"""The outcome of a search: from the rows of its trials to the best point of every method on every pair."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.experiment.rules import Found, Key
from harness.experiment.search_settings import Source
from harness.experiment.space import LR, point_of, values_in
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
        run_id, number, status, message: from its row.
        values: of every dimension of the space.
        point: the values that have an effect.
        dev_miou: in [0, 1], of its last evaluation; None if there was none.
        step_ms: median time of a training step; None if unknown.
        seconds: of training and evaluation; of a failed trial the whole time.
    """

    run_id: str
    number: int
    status: str
    message: str
    values: dict[str, float]
    point: dict[str, float]
    dev_miou: float | None
    step_ms: float | None
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """The search of one method on one pair.

    Attributes:
        study: what was searched.
        trials: the finished ones, by number.
        wanted: the number of trials asked for.
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

    @property
    def best(self) -> TrialResult | None:
        """The successful trial with the highest dev mIoU, the first of equals; None if there is none."""
        finished = [trial for trial in self.trials if trial.status == "ok"]
        return max(finished, key=lambda trial: trial.dev_miou or 0.0, default=None)  # max takes the first of equals

    @property
    def tied(self) -> tuple[TrialResult, ...]:
        """The other successful trials with the same dev mIoU."""
        best = self.best
        same = (t for t in self.trials if best is not None and t.status == "ok" and t.dev_miou == best.dev_miou)
        return tuple(t for t in same if t is not best)

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
        return (*self.study.key, score, "–" if best is None else said(best.point), trials, f"{self.seconds:.0f} s")


def said(point: Mapping[str, float]) -> str:
    """A point as text: `lr=0.002, weight=1.5`."""
    return ", ".join(f"{'lr' if name == LR else name}={value:g}" for name, value in point.items())


def outcomes(experiment: Experiment, directory: Path) -> list[Outcome]:
    """The search's outcome from the rows below `directory`, the experiment's results folder, study by study.

    Raises:
        ValueError: the experiment has no search, the folder holds a different one, or a row is corrupt.
    """
    studies, search = studies_of(experiment), experiment.search
    assert search is not None
    require_same(search_folder(directory), experiment, studies)
    columns = ("run_id", "status", "message", "pair", "trial", "trial_method", "method_parameters", "recipe")
    measured = ("dev_miou", "step_ms", "train_seconds", "eval_seconds", "wall_seconds")
    rows = store.read_rows(search_folder(directory), [*columns, *measured]).to_pylist()
    by_key: dict[Key, list[dict[str, Any]]] = {}
    for row in rows:
        if row["trial"] is not None:
            by_key.setdefault((row["pair"], row["trial_method"]), []).append(row)
    return [
        Outcome(
            study,
            tuple(sorted((_trial_result(study, row) for row in by_key.get(study.key, [])), key=lambda t: t.number)),
            search.trials,
            search.minutes,
            proposer(experiment),
        )
        for study in studies
    ]


def _trial_result(study: Study, row: Mapping[str, Any]) -> TrialResult:
    lr = json.loads(row["recipe"])["optimizer"]["lr"]
    values = values_in(study.space, json.loads(row["method_parameters"]), lr)
    same = ("run_id", "status", "message", "dev_miou", "step_ms")
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
            problems.append(
                f"{search_folder(directory)}: {name}: none of its {len(outcome.trials)} trials was successful "
                f"({outcome.trials[0].message}). Fix the cause, then delete their rows and run: sstkd-bench tune {file}"
            )
        else:
            points[outcome.study.key] = Found(best.point, outcome.source)
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
        # Of the best trial; null where none was successful.
        ("run_id", pa.string()),
        ("trial", pa.int64()),
        ("point", pa.string()),  # JSON: value by hyper-parameter, the learning rate as `optimizer.lr`
        ("dev_miou", pa.float64()),
        ("step_ms", pa.float64()),
        ("tied", pa.list_(pa.string())),  # run_ids of other trials with the same dev_miou
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
        "tied": [trial.run_id for trial in outcome.tied],
    }
    if best is not None:
        line |= {"run_id": best.run_id, "trial": best.number, "point": json.dumps(best.point)}
        line |= {"dev_miou": best.dev_miou, "step_ms": best.step_ms}
    return line
