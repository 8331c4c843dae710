"""The algorithms of the ruleset `searched`: Ray Tune's schedulers and Optuna's TPE sampler, resumable from rows.

An interrupted search resumes from the rows of its trials, not from Tune's own state, which is a pickle and lacks the
schedulers: earlier results are fed to the scheduler or the sampler again.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, HyperBandScheduler
from ray.tune.search.optuna import OptunaSearch

from harness.experiment.search_settings import Search
from harness.experiment.space import Dimension, Space
from harness.search.outcome import Outcome
from harness.seeds import derive

METRIC, TIME = "dev_miou", "step"
REDUCTION = 3
SEEDS = 2**32

Curves = Mapping[int, Sequence[Mapping[str, Any]]]
"""The learning curve of every finished trial, by its number."""


class Asha(ASHAScheduler):  # type: ignore[misc]
    """ASHA that can be given the curves of an earlier session."""

    def recall(self, curves: Curves) -> None:
        """Fill the rungs with the scores of earlier trials."""
        for number, curve in curves.items():
            trial = SimpleNamespace(trial_id=f"earlier {number}")
            for point in curve:
                self._brackets[0].on_result(trial, point["step"], point["dev_miou"])


class Proposing(OptunaSearch):  # type: ignore[misc]
    """Optuna in Tune; its state follows from the rows, so the pickle of it that Tune keeps is left empty."""

    def save(self, checkpoint_path: str) -> None:
        """Write the empty file that Tune expects."""
        Path(checkpoint_path).touch()


def scheduler(search: Search, steps: int, eval_every: int | None, curves: Curves) -> Any:
    """The scheduler, which may end trials early.

    Args:
        search: names the algorithm.
        steps: of a trial.
        eval_every: steps between evaluations.
        curves: of the finished trials.
    """
    by_metric: dict[str, Any] = {"time_attr": TIME, "metric": METRIC, "mode": "max"}
    reduction = search.reduction or REDUCTION
    if search.algorithm == "asha":
        asha = Asha(**by_metric, max_t=steps, grace_period=search.grace or eval_every or 1, reduction_factor=reduction)
        asha.recall(curves)
        return asha
    if search.algorithm == "hyperband":
        return HyperBandScheduler(**by_metric, max_t=steps, reduction_factor=reduction)
    return FIFOScheduler()


def require_optuna() -> None:
    """Check that Optuna is installed.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ValueError("search.algorithm: tpe needs Optuna: pip install 'sstkd-bench[search]'") from None


def proposals(
    outcome: Outcome,
    search: Search,
    waiting: Mapping[int, Mapping[str, float] | None],
    begin: Callable[[int, dict[str, float]], dict[str, Any]],
) -> Any:
    """Optuna's TPE as a searcher of Tune; a term that is off has no further options.

    Args:
        outcome: with the finished trials, which the sampler learns from.
        search: with the seed and the number of trials.
        waiting: the trials to come by number, with the values of those that an earlier session began.
        begin: called with a number and values; returns the configuration of that trial.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, known = outcome.study.space, [trial for trial in outcome.trials if trial.status != "skipped"]
    # The seed depends on the number of trials so far: after an interruption the first draws are not repeated.
    begun = len(outcome.trials) + sum(values is not None for values in waiting.values())
    seed = derive(search.run_seeds[0], str(search.algorithm), *outcome.study.key, begun) % SEEDS
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(study_name="search", storage=storage, direction="maximize")
    for trial in known:
        params, kinds = _params(space, trial.values), _distributions(space)
        study.add_trial(
            optuna.trial.create_trial(
                params=params,
                distributions={name: kinds[name] for name in params},
                value=trial.dev_miou if trial.status == "ok" else 0.0,
            )
        )
    numbers = sorted(waiting, key=lambda number: (waiting[number] is None, number))
    for number in numbers:
        values = waiting[number]
        if values is not None:
            study.enqueue_trial(_params(space, values))

    def ask(trial: Any) -> dict[str, Any]:
        return begin(numbers.pop(0), _suggested(space, trial))

    # A third of the trials is drawn at random, so that a short search learns too.
    sampler = optuna.samplers.TPESampler(n_startup_trials=max(1, min(10, search.trials // 3)), seed=seed)
    return Proposing(ask, metric=METRIC, mode="max", sampler=sampler, study_name="search", storage=storage)


def _switch(dimension: Dimension) -> str:
    return f"{dimension.name} on"


def _ordered(space: Space) -> list[Dimension]:
    """Dimensions that others depend on first."""
    return sorted(space, key=lambda each: each.needs is not None)


def _suggested(space: Space, trial: Any) -> dict[str, float]:
    """Values from an Optuna trial; a dimension without effect has none."""
    values: dict[str, float] = {}
    for each in _ordered(space):
        if each.needs is not None and not values.get(each.needs, 1.0):
            continue
        if each.optional and not trial.suggest_categorical(_switch(each), [True, False]):
            values[each.name] = 0.0
        else:
            values[each.name] = each.inside(trial.suggest_float(each.name, each.low, each.high, log=True))
    return values


def _params(space: Space, values: Mapping[str, float]) -> dict[str, Any]:
    """The Optuna parameters for which `_suggested` gives these values."""
    params: dict[str, Any] = {}
    for each in _ordered(space):
        if each.needs is not None and not values.get(each.needs, 1.0):
            continue
        if each.optional:
            params[_switch(each)] = values[each.name] != 0
        if not each.optional or values[each.name] != 0:
            params[each.name] = values[each.name]
    return params


def _distributions(space: Space) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    kinds: dict[str, Any] = {each.name: FloatDistribution(each.low, each.high, log=True) for each in space}
    return kinds | {_switch(each): CategoricalDistribution([True, False]) for each in space if each.optional}
