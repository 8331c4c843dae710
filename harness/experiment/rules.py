"""Rules of the protocol that an experiment must obey: its controls, budget and search."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.experiment.budget import control_label
from harness.experiment.network_rules import WITHOUT_ORDER
from harness.experiment.recipe import Train
from harness.experiment.search_settings import (
    BY_ALGORITHM,
    FEWEST_SEEDS,
    LOOKS_AT_CURVES,
    ONLY_SEARCHED,
    ONLY_TUNED,
    Search,
    Source,
)
from harness.experiment.spec import Experiment

PLAIN = "none"
SOBOL = "sobol"
"""What proposes the trials of the ruleset `tuned`."""
Key = tuple[str, str]
"""A pair's name and a method's label."""
ADDED_CONTROL = {"steps": "equal seconds", "seconds": "equal steps"}
"""By budget unit: the additional control, the student without distillation at equal seconds or equal steps."""


@dataclass(frozen=True)
class Found:
    """The best point of a method on a pair: its values by name, and the search it comes from."""

    point: Mapping[str, float]
    source: Source


def require_control(experiment: Experiment) -> None:
    """Require the student without distillation, the baseline of every comparison.

    Raises:
        ValueError: the control `none` is not among the methods.
    """
    if not any(method.name == PLAIN for method in experiment.methods):
        raise ValueError(
            f"the control {PLAIN!r} is missing. Add it: a gain is measured against the student without distillation."
        )


def require_point(experiment: Experiment, found: Mapping[Key, Found] | None) -> None:
    """Check that the best points of a search are given if the ruleset needs them.

    Raises:
        ValueError: they are missing.
    """
    ruleset = experiment.protocol.ruleset
    if ruleset != "published" and found is None:
        raise ValueError(
            f"protocol.ruleset: {ruleset}: its runs use the best point of a search. First: sstkd-bench tune FILE; "
            "then: sstkd-bench run FILE --from-search"
        )


def needs_times(experiment: Experiment) -> bool:
    """Whether a step of every method must be timed before the runs can be planned."""
    return experiment.budget.unit == "seconds" or experiment.budget.longer is True


def labels(experiment: Experiment) -> list[str]:
    """Labels of the table's lines, in order: the methods, then the control that the budget adds."""
    found = [method.label for method in experiment.methods]
    if needs_times(experiment):
        found.append(control_label(PLAIN, ADDED_CONTROL[experiment.budget.unit]))
    return found


def teachers(experiment: Experiment) -> dict[str, int]:
    """By pair, the number of its teachers."""
    return {pair.name: len(pair.teacher.all_seeds) for pair in experiment.pairs}


Problems = Iterator[tuple[tuple[str | int, ...], str]]
"""Errors that types do not show: key path and message."""


def problems(experiment: Experiment) -> Problems:
    """Those of the whole experiment."""
    yield from teacher_problems(experiment)
    yield from budget_problems(experiment)
    yield from search_problems(experiment)
    if experiment.train.deterministic and experiment.resources.gpus_per_worker > 0:
        trained = {
            network.architecture
            for pair in experiment.pairs
            for network in (pair.student, pair.teacher)
            if network is pair.student or pair.teacher.checkpoint is None
        }
        for name in sorted(trained & WITHOUT_ORDER.keys()):
            why = f"{name} is trained with {WITHOUT_ORDER[name]}, whose additions have no fixed order on a GPU"
            yield ("train", "deterministic"), f"{why}. Delete it, or take another network"


def teacher_problems(experiment: Experiment) -> Problems:
    """Errors in the `seeds` of teachers."""
    for index, pair in enumerate(experiment.pairs):
        teacher, at = pair.teacher, ("pairs", index, "teacher", "seeds")
        if teacher.seeds is None:
            continue
        if "seed" in teacher.model_fields_set:
            yield at, "there is seed too, which is for one teacher. Delete seed"
        if teacher.checkpoint is not None:
            yield at, "the checkpoint is one trained teacher, and seeds train several. Delete seeds, or the checkpoint"
        for seed in sorted({seed for seed in teacher.seeds if teacher.seeds.count(seed) > 1}):
            yield at, f"{seed} is listed twice; list each seed once"


def budget_problems(experiment: Experiment) -> Problems:
    """Errors in `budget`."""
    budget = experiment.budget
    if budget.unit == "steps" and budget.seconds is not None:
        yield ("budget", "seconds"), "only with unit: seconds. Delete it, or write unit: seconds beside it"
    if budget.unit == "seconds" and budget.longer:
        yield (
            ("budget", "longer"),
            "only with unit: steps; with unit: seconds all methods train equally long. Delete it",
        )


def search_problems(experiment: Experiment) -> Problems:
    """Errors in `search`."""
    search, train, ruleset = experiment.search, experiment.train, experiment.protocol.ruleset
    if search is None:
        if ruleset != "published":
            yield ("search",), f"missing; the ruleset {ruleset} needs e.g. search: {{trials: 16, lr: [0.0005, 0.02]}}"
        return
    if ruleset == "published":
        yield ("search",), "not for the ruleset published. Delete it, or write protocol: {ruleset: tuned} or searched"
        return
    steps = search.steps_of(train.steps)
    if search.lr[0] >= search.lr[1]:
        yield ("search", "lr"), f"is [low, high] with low < high; given {list(search.lr)}"
    tuned = ruleset == "tuned"
    for seed in set(search.run_seeds).intersection(experiment.seeds):
        key = "seeds" if tuned else "seed"
        yield ("search", key), f"{seed} is one of seeds; a final run is never a trial. Give another seed"
    if steps <= train.schedule.warmup_steps:
        key = "fraction" if tuned else "steps"
        yield ("search", key), f"{steps} steps end in the warm-up (train.schedule.warmup_steps); give more"
    for key in () if tuned else ("labels", "autoscale"):
        if getattr(experiment.resources, key):
            yield ("resources", key), "Ray Tune places the trials of the ruleset searched. Leave it out, or take tuned"
    yield from _tuned_problems(search, train.steps) if tuned else _searched_problems(search, train, steps)


def _tuned_problems(search: Search, steps: int) -> Problems:
    """Errors under the ruleset `tuned`; `steps` are those of a final run."""
    for key in ONLY_SEARCHED:
        if getattr(search, key) is not None:
            yield ("search", key), "only for the ruleset searched: tuned points are drawn before the first trial"
    if search.seed is not None:
        seeds = [search.seed, search.seed + 1]
        yield ("search", "seed"), f"the ruleset tuned has several search seeds. Write seeds: {seeds}"
    if search.steps is not None:
        share = f"{search.steps / steps:.3g}" if search.steps < steps else "1.0"
        yield ("search", "steps"), f"the ruleset tuned has a share of train.steps. Write fraction: {share}"
    seeds = list(search.run_seeds)
    if len(seeds) < FEWEST_SEEDS:
        yield (
            ("search", "seeds"),
            f"{FEWEST_SEEDS} or more are needed, since one run does not tell a point from luck; given {seeds}",
        )
    for seed in sorted({seed for seed in seeds if seeds.count(seed) > 1}):
        yield ("search", "seeds"), f"{seed} is there twice; the same run again says nothing"


def _searched_problems(search: Search, train: Train, steps: int) -> Problems:
    """Errors under the ruleset `searched`; `steps` are those of a trial."""
    for key, instead in ONLY_TUNED.items():
        if getattr(search, key) != Search.model_fields[key].default:
            yield ("search", key), f"only for the ruleset tuned; the ruleset searched has {instead}. Delete it"
    if search.algorithm is None:
        yield ("search", "algorithm"), "missing; the ruleset searched allows random, asha, hyperband, tpe"
        return
    for key, algorithms in BY_ALGORITHM.items():
        if getattr(search, key) is not None and search.algorithm not in algorithms:
            yield ("search", key), f"only for {' and '.join(algorithms)}, not {search.algorithm}; delete it"
    if search.algorithm in LOOKS_AT_CURVES and (train.eval_every is None or train.eval_every >= steps):
        yield (
            ("search", "algorithm"),
            f"{search.algorithm} needs evaluations during a trial; give train.eval_every below its {steps} steps",
        )
    if search.grace is not None and search.grace >= steps:
        yield ("search", "grace"), f"is below the {steps} steps of a trial; given {search.grace}"
