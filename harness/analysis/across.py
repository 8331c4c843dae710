"""Methods over many pairs and datasets: gains by task, ranks, and the conclusion.

Tasks are the pairs of one or several experiments. Values within a task are from `analysis.comparison`; across tasks
only methods with all their runs count, and a method that failed on a task is ranked last there. Pairs of one dataset
are not independent of each other, so intervals and tests are over datasets: pairs of one say nothing about others.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.analysis.lines import BOOTSTRAP_SEED, CONFIDENCE, Comparison, MethodRow
from harness.analysis.ranking import (
    LOST,
    critical_difference,
    friedman,
    gaps,
    groups,
    mean_ranks,
    probability_of_improvement,
    profile_area,
)
from harness.analysis.stats import Interval, mean_interval
from harness.analysis.tables import Block, Table
from harness.analysis.teachers import paired
from harness.metrics import class_iou

WITHIN = 5.0
"""Percentage points from the best of a task up to which the performance profile is integrated."""


@dataclass(frozen=True)
class Task:
    """A pair on a dataset, with a unique name, and the experiment that it is of."""

    name: str
    block: Block
    experiment: str = ""


@dataclass(frozen=True)
class Standing:
    """A method over all tasks.

    Attributes:
        label: the method.
        rank: its mean rank over the pairs of a dataset, then over datasets; 1 is best.
        gain: its mean difference to the baseline in percentage points, averaged in the same way, with the t interval
            over datasets, if there are several; None for the baseline, or if it failed on a task.
        better: the probability that one of its runs beats one of the baseline's; None for the baseline.
        area: mean height of its performance profile up to `WITHIN` percentage points from the best.
        wins, losses: number of tasks with a significant difference to the baseline, above or below 0.
    """

    label: str
    rank: float
    gain: Interval | None
    better: Interval | None
    area: float
    wins: int
    losses: int


@dataclass(frozen=True)
class Across:
    """All methods over all tasks.

    Attributes:
        tasks: in the order of the experiments.
        methods: every label, the baseline (student without distillation) first.
        ranked: standings, by rank, of the methods that were run on every task.
        unranked: reason why other methods have no rank, by label.
        datasets: in the order of the tasks.
        tested: mean rank over datasets of the mean gain of every ranked method but the baseline; empty for one dataset.
        friedman: p-value of "all tested methods are equally good"; None for fewer than three, or one dataset.
        critical: Nemenyi's critical difference of the tested ranks; None for fewer than two methods, or one dataset.
        groups: sets of tested methods that do not differ by more than it.
    """

    tasks: tuple[Task, ...]
    methods: tuple[str, ...]
    ranked: tuple[Standing, ...]
    unranked: Mapping[str, str]
    datasets: tuple[str, ...]
    tested: Mapping[str, float]
    friedman: float | None
    critical: float | None
    groups: tuple[tuple[str, ...], ...]

    def cell(self, method: str, task: Task) -> str:
        """The difference to the baseline with its interval, the baseline's own mIoU, or what is missing."""
        x = task.block.line(method)
        if x is None or x.miou is None:
            return "not run" if x is None else x.absences
        more = f"; {x.absences}" if x.absences else ""
        if x is task.block.baseline:
            return x.miou.text + more
        c: Comparison | None = x.vs_none
        return ("no pair" if c is None else f"{c.text} (n={c.difference.n})") + more

    @property
    def pick(self) -> str:
        """The conclusion in words, with its significance."""
        if not self.ranked:
            return "Nothing can be concluded: no method but the baseline was run on all tasks."
        first, count = self.ranked[0], len(self.tasks)
        tied = [s.label for s in self.ranked if s.rank == first.rank]
        who = f"{first.label} has" if len(tied) == 1 else f"{' and '.join(tied)} share"
        text = f"{who} the best mean rank over {count} {'pair' if count == 1 else 'pairs'}: "
        text += f"{first.rank:.2f} of {len(self.ranked)}"
        if first.gain is not None and len(tied) == 1:
            g = first.gain
            text += f", {g.mean:+.2f} percentage points"
            text += "" if g.low is None or g.high is None else f" [{g.low:+.2f}, {g.high:+.2f}]"
            text += " to the baseline"
        if first.label == self.tasks[0].block.references["none"]:
            text += ". No method is ahead of the baseline"
        if self.critical is None or first.label not in self.tested:
            only = "one dataset" if len(self.datasets) == 1 else f"{len(self.datasets)} datasets"
            return f"{text}. Nothing can be concluded from {only} about which method is best on another."
        # The order of the pairs' ranks need not be that of the datasets' gains, which are tested.
        near = {name for name, rank in self.tested.items() if rank - self.tested[first.label] <= self.critical}
        over = f"over {len(self.datasets)} datasets, critical difference {self.critical:.2f}"
        rest = sorted(near - set(tied))
        if not rest:
            return f"{text}. It is significantly ahead of all other methods ({over})."
        return f"{text}. It is not significantly ahead of {', '.join(rest)} ({over})."


def across(tables: Sequence[Table]) -> Across:
    """Combine the tables of one or several experiments.

    Args:
        tables: at least one, all of one protocol version.

    Raises:
        ValueError: no table, tables of several protocol versions or rulesets, one twice, or a task without a baseline.
    """
    if not tables:
        raise ValueError("nothing to compare: name at least one experiment")
    for what, found in (
        ("protocol versions", {table.protocol for table in tables}),
        ("rulesets", {block.ruleset for table in tables for block in table.blocks}),
        ("units of the budget", {block.budget.split()[-1] for table in tables for block in table.blocks}),
    ):
        if len(found) > 1:
            raise ValueError(f"experiments of several {what} are not compared: {', '.join(sorted(found))}")
    tasks = _tasks(tables)
    for task in tasks:
        if task.block.baseline is None or task.block.baseline.miou is None:
            raise ValueError(f"{task.name}: the student without distillation has no result, so there are no gains")
    methods = tuple(dict.fromkeys(x.label for task in tasks for x in task.block.methods))
    ranked, unranked = _rankable(tasks, methods)
    datasets = tuple(dict.fromkeys(task.block.dataset for task in tasks))
    distilled = [name for name in ranked if name != tasks[0].block.references["none"]]
    several = len(datasets) > 1 and len(distilled) > 1
    gains = np.array([[_gain(_of(dataset, tasks), name) for name in distilled] for dataset in datasets])
    tested = dict(zip(distilled, mean_ranks(gains).tolist(), strict=True)) if several else {}
    critical = critical_difference(len(distilled), len(datasets)) if several else None
    return Across(
        tasks=tasks,
        methods=methods,
        ranked=_standings(ranked, tasks),
        unranked=unranked,
        datasets=datasets,
        tested=tested,
        friedman=friedman(gains) if several and len(distilled) > 2 else None,
        critical=critical,
        groups=tuple(groups(tested, critical)) if critical is not None else (),
    )


def _of(dataset: str, tasks: Sequence[Task]) -> list[Task]:
    """The tasks on a dataset."""
    return [task for task in tasks if task.block.dataset == dataset]


def _gain(tasks: Sequence[Task], label: str) -> float:
    """Mean over tasks of a method's mean difference to the baseline; `LOST` if a run of it failed."""
    found = [task.block.line(label) for task in tasks]
    means = [x.vs_none.difference.mean for x in found if x is not None and x.vs_none is not None and not x.failed]
    return float(np.mean(means)) if len(means) == len(tasks) else LOST


def _tasks(tables: Sequence[Table]) -> tuple[Task, ...]:
    names: dict[str, int] = {}
    found = [(table, block) for table in tables for block in table.blocks]
    for _, block in found:
        names[block.where] = names.get(block.where, 0) + 1
    out = []
    for table, block in found:
        name = block.where
        out.append(Task(name if names[name] == 1 else f"{name} ({table.experiment})", block, table.experiment))
        if out[-1].name in [task.name for task in out[:-1]]:
            raise ValueError(f"{out[-1].name}: given twice, and would count as two tasks. Name each experiment once")
    return tuple(out)


def _run_values(line: MethodRow | None) -> list[float] | None:
    """The values of a method's runs on a task, `LOST` for each that failed; None unless all were run."""
    if line is None or line.missing or line.skipped:
        return None
    return [*line.values.values(), *[LOST] * line.failed] or None


def _value(task: Task, label: str) -> float:
    return float(np.mean(_run_values(task.block.line(label)) or [LOST]))


def _rankable(tasks: Sequence[Task], methods: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The methods with all their runs on every task, and the reasons why the others are left out."""
    ranked, left = [], {}
    for name in methods:
        missing = [task.name for task in tasks if _run_values(task.block.line(name)) is None]
        if missing:
            left[name] = f"not run, or not completely, on {', '.join(missing)}"
        else:
            ranked.append(name)
    return ranked, left


def _standings(ranked: Sequence[str], tasks: Sequence[Task]) -> tuple[Standing, ...]:
    if len(ranked) < 2:
        return ()
    table = np.array([[_value(task, name) for name in ranked] for task in tasks])
    datasets = list(dict.fromkeys(task.block.dataset for task in tasks))
    of = np.array([datasets.index(task.block.dataset) for task in tasks])
    ranks = np.mean([mean_ranks(table[of == i]) for i in range(len(datasets))], axis=0)
    behind = gaps(table)
    out = []
    for i, name in enumerate(ranked):
        lines = [line for task in tasks if (line := task.block.line(name)) is not None]
        baselines = [task.block.baseline for task in tasks]
        gain = better = None
        if any(line is not p for line, p in zip(lines, baselines, strict=True)):
            means = [_gain(_of(dataset, tasks), name) for dataset in datasets]
            gain = None if LOST in means else mean_interval(means, CONFIDENCE)
            better = probability_of_improvement(
                [_run_values(x) or [] for x in lines],
                [_run_values(p) or [] for p in baselines],
                np.random.default_rng(BOOTSTRAP_SEED),
                CONFIDENCE,
            )
        found = [x.vs_none.difference.mean for x in lines if x.vs_none is not None and x.vs_none.significant]
        area = profile_area(behind[:, i], WITHIN)
        wins = sum(mean > 0 for mean in found)
        out.append(Standing(name, float(ranks[i]), gain, better, area, wins, len(found) - wins))
    return tuple(sorted(out, key=lambda s: (s.rank, s.label)))


def profile_gaps(found: Across) -> dict[str, Any]:
    """By ranked method, its distance to the best method of every task in percentage points: (tasks,)."""
    names = [s.label for s in found.ranked]
    table = np.array([[_value(task, name) for name in names] for task in found.tasks])
    return dict(zip(names, gaps(table).T, strict=True)) if names else {}


@dataclass(frozen=True)
class Cost:
    """A method on a task: the cost of its student and of its training, and its mIoU in percent."""

    label: str
    task: str
    miou: float
    parameters: int | None
    macs: int | None
    train_seconds: float | None
    latency_ms: float | None = None


def costs(found: Across, rows: Mapping[str, Mapping[str, Any]]) -> list[Cost]:
    """One point for each cell with results.

    Args:
        found: the comparison.
        rows: by run_id, with device, student_parameters, student_macs, train_seconds and student_latency_ms. Seconds
            are the median over the method's runs, latency the median over all methods' runs on the task, because the
            method does not affect inference; both of the device on which most runs of the task ran.
    """
    return [cost for task in found.tasks for cost in costs_of(task, rows)]


def costs_of(task: Task, rows: Mapping[str, Mapping[str, Any]]) -> list[Cost]:
    """One point for each line of a task with results; arguments as for `costs`."""
    out = []
    by_method = {x.label: [rows[run] for run in x.run_ids.values()] for x in task.block.methods}
    counts = Counter(row["device"] for mine in by_method.values() for row in mine)
    device = min(counts, key=lambda each: (-counts[each], each), default=None)
    timed = {x: [row for row in mine if row["device"] == device] for x, mine in by_method.items()}
    latency = _median([row["student_latency_ms"] for mine in timed.values() for row in mine])
    for x in task.block.methods:
        if x.miou is not None:
            mine = by_method[x.label]
            size = mine[0]["student_parameters"], mine[0]["student_macs"]
            seconds = _median([row["train_seconds"] for row in timed[x.label]])
            out.append(Cost(x.label, task.name, x.miou.mean, *size, seconds, latency))
    return out


def _median(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the Pareto-optimal points (cost, score), lower cost and higher score being better.

    Ordered by cost; of equal points only the first.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1], i))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def class_gains(task: Task, rows: Mapping[str, Mapping[str, Any]], column: str) -> dict[str, list[float]] | None:
    """By method, the mean over paired seeds of each class's IoU minus the baseline's, in percentage points.

    Args:
        task: the task.
        rows: by run_id, with the column.
        column: a confusion column of the rows, e.g. "val_confusion" or "val_boundary_confusion".

    Returns:
        (K,) for each method; nan for a class that is in neither labels nor predictions of one side. None if the rows
        lack the column.
    """
    baseline = task.block.baseline
    if baseline is None or any(rows[run][column] is None for run in baseline.run_ids.values()):
        return None
    out = {}
    for x in task.block.methods:
        both = paired(x.run_ids, baseline.run_ids)
        if x is baseline or not both:
            continue
        pairs = [(rows[one][column], rows[other][column]) for one, other in both]
        out[x.label] = (100 * np.mean([_iou(a) - _iou(b) for a, b in pairs], axis=0)).tolist()
    return out


def _iou(counts: Sequence[int]) -> Any:
    side = round(len(counts) ** 0.5)
    return class_iou(np.reshape(counts, (side, side)))
