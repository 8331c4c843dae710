"""The fairness protocol: from an experiment to its runs (docs/protocol.md).

Fixed for every method: teacher, student and its initial weights, data and its order, augmentation, recipe, steps,
evaluation. Free: the distiller, and with a search what its space names and the learning rate. The plain student
(`none`) is a control that no comparison goes without.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.experiment.recipe import Budget, StepTime, control_label
from harness.experiment.search_settings import BY_ALGORITHM, LOOKS_AT_CURVES, ONLY_SEARCHED, Change, Source, Trial
from harness.experiment.space import LR, Space, point_of, space_of, with_point
from harness.experiment.spec import Experiment, Method, PairSpec, Run

PLAIN = "none"
SOBOL = "sobol"
"""Who proposes the trials of the ruleset `tuned`."""

Key = tuple[str, str]
"""A pair's name and a method's label."""

REPEATS = 3
WARM_UP_STEPS, TIMED_STEPS = 5, 25
"""Of a run that only times a step; `harness.training.cost.StepClock` leaves out as many."""
TIMING = "step time"
"""Who asks for such a run, in the place of a search's algorithm."""


@dataclass(frozen=True)
class Found:
    """The best point of a method on a pair: its values by name, and the search it comes from."""

    point: Mapping[str, float]
    source: Source


@dataclass(frozen=True)
class Study:
    """The search of one method on one pair.

    Attributes:
        template: a trial's run but for its point and its number.
        label: the method's in the experiment; a trial's own label has its point.
        space: what is searched.
    """

    template: Run
    label: str
    space: Space

    @property
    def key(self) -> Key:
        """The pair's name and the method's label."""
        return self.template.pair, self.label


def teacher_run(experiment: Experiment, pair: PairSpec) -> Run:
    """The run that trains the pair's teacher, or evaluates the given checkpoint."""
    teacher = pair.teacher
    optimizer = experiment.train.optimizer
    train = experiment.train.model_copy(
        update={
            "steps": teacher.steps or experiment.train.steps,
            "optimizer": optimizer.model_copy(update={"lr": teacher.lr or optimizer.lr}),
        }
    )
    network = {key: getattr(teacher, key) for key in ("architecture", "encoder", "parameters", "encoder_weights")}
    return Run(
        experiment=experiment.name,
        role="teacher",
        pair=pair.name,
        protocol=experiment.protocol,
        budget=Budget(),
        data=experiment.data,
        network=pair.student.model_copy(update=network),
        teacher=None,
        teacher_run=None,
        checkpoint=teacher.checkpoint,
        method=Method(name=PLAIN),
        train=train,
        seed=teacher.seed,
        overrides=experiment.overrides,
    )


def require_control(experiment: Experiment) -> None:
    """Every comparison has the plain student in it.

    Raises:
        ValueError: the control `none` is not among the methods.
    """
    if not any(method.name == PLAIN for method in experiment.methods):
        raise ValueError(f"the control {PLAIN!r} is missing. Add it: without the plain student no gain can be stated.")


def plan(
    experiment: Experiment,
    found: Mapping[Key, Found] | None = None,
    times: Mapping[Key, StepTime] | None = None,
) -> list[Run]:
    """Every run of the experiment, teachers first, then seed by seed so that partial results are comparable.

    Args:
        experiment: any.
        found: where the ruleset wants a search: the best point of every method on every pair.
        times: where the budget wants them (`needs_times`): how long a step of every method takes on every pair.

    Raises:
        ValueError: the control `none` is not among the methods, a search or step times are wanted and not given, or the
            seconds are too few for a method.
    """
    require_point(experiment, found)
    if needs_times(experiment) and times is None:
        raise ValueError(
            "budget: its runs have as many steps as fit into the seconds, and no step has been timed yet. "
            "First: sstkd-bench run FILE, which does"
        )
    runs = outline(experiment) if times is None else within_budget(experiment, times)
    if found is None:
        return runs
    return [run if run.role == "teacher" else _at(run, found[run.pair, run.method.label]) for run in runs]


def require_point(experiment: Experiment, found: Mapping[Key, Found] | None) -> None:
    """See that the best points are there where the ruleset wants them.

    Raises:
        ValueError: they are not.
    """
    ruleset = experiment.protocol.ruleset
    if ruleset != "published" and found is None:
        raise ValueError(
            f"protocol.ruleset: {ruleset}: its runs have the best point of a search. First: sstkd-bench tune FILE; "
            "then: sstkd-bench run FILE --from-search"
        )


def foreseen(experiment: Experiment) -> list[Run]:
    """The runs, as far as they are known before any step was timed; what an experiment is named by on a cluster.

    Raises:
        ValueError: as `plan`, for want of a search.
    """
    require_point(experiment, None)
    return outline(experiment)


def needs_times(experiment: Experiment) -> bool:
    """Whether a step of every method must be timed before the runs can be planned."""
    return experiment.budget.unit == "seconds" or experiment.budget.longer


def labels(experiment: Experiment) -> list[str]:
    """The lines of the experiment's table, in their order: its methods, and the control that its budget adds."""
    found = [method.label for method in experiment.methods]
    if needs_times(experiment):
        found.append(control_label(PLAIN, _CONTROLS[experiment.budget.unit]))
    return found


_CONTROLS = {"steps": "equal seconds", "seconds": "equal steps"}
"""The control that a budget adds to its own: what the plain student is equal in, by what all are equal in."""


def timing_runs(experiment: Experiment) -> list[Run]:
    """Runs of a few steps that time a step of each method on each pair, `REPEATS` times, all methods in turn."""
    train = experiment.train.model_copy(
        update={"steps": WARM_UP_STEPS + TIMED_STEPS, "eval_every": None, "checkpoint_every": None}
    )
    runs = []
    for repeat in range(REPEATS):
        for pair in experiment.pairs:
            teacher = teacher_run(experiment, pair)
            for method in experiment.methods:
                run = _student(experiment, pair, teacher, method, repeat)
                trial = Trial(method=method.label, number=repeat, algorithm=TIMING)
                runs.append(run.model_copy(update={"train": train, "trial": trial}))
    return runs


def within_budget(experiment: Experiment, times: Mapping[Key, StepTime]) -> list[Run]:
    """The runs of `outline` with the steps that a budget of seconds has room for, and the control that goes with it.

    Raises:
        ValueError: as `outline`, or the seconds are too few for a method.
    """
    budget, steps = experiment.budget, experiment.train.steps

    def within(run: Run) -> Run:
        if run.role == "teacher" or budget.unit == "steps":
            return run
        time = times[run.pair, run.method.label]
        seconds = budget.seconds or 1e-3 * times[run.pair, PLAIN].ms * steps
        run = run.model_copy(update={"budget": budget.model_copy(update={"seconds": seconds})})
        return _timed(run, time, _fit(seconds, time.ms))

    def control(run: Run) -> Run:
        time = times[run.pair, PLAIN]
        slowest = max(each.ms for (pair, _), each in times.items() if pair == run.pair)
        seconds = run.budget.seconds
        count = _fit(1e-3 * slowest * steps, time.ms) if seconds is None else _fit(seconds, slowest)
        return _timed(run.model_copy(update={"control": _CONTROLS[budget.unit]}), time, count)

    out: list[Run] = []
    # All of them first: of a budget that is too small a method is named.
    for run in [within(run) for run in outline(experiment)]:
        plain = run.role == "student" and run.method.name == PLAIN
        out += [run, control(run)] if plain else [run]
    return out


def _fit(seconds: float, ms: float) -> int:
    """Whole steps that fit; what rounding took away from a budget that was made of steps is given back."""
    return int(1e3 * seconds / ms + 1e-6)


def _timed(run: Run, time: StepTime, steps: int) -> Run:
    warm_up = run.train.schedule.warmup_steps
    if steps <= warm_up:
        raise ValueError(
            f"budget: {run.label} on {run.pair} has {steps} steps of {time.ms:.3g} ms, which end in the warm-up "
            f"(train.schedule.warmup_steps: {warm_up}). Give more seconds, or fewer warm-up steps"
        )
    return run.model_copy(update={"train": run.train.model_copy(update={"steps": steps}), "step_time": time})


def _at(run: Run, best: Found) -> Run:
    """A final run with the best point of a search."""
    return _pointed(run, best.point).model_copy(update={"source": best.source})


def _pointed(run: Run, point: Mapping[str, float]) -> Run:
    optimizer = run.train.optimizer.model_copy(update={"lr": point[LR]})
    train = run.train.model_copy(update={"optimizer": optimizer})
    return run.model_copy(update={"train": train, "method": with_point(run.method, point)})


def outline(experiment: Experiment) -> list[Run]:
    """The runs of the experiment as if its ruleset were `published`: what is run on what, without any search.

    Raises:
        ValueError: the control `none` is not among the methods.
    """
    require_control(experiment)
    teachers = {pair.name: teacher_run(experiment, pair) for pair in experiment.pairs}
    students = [
        _student(experiment, pair, teachers[pair.name], method, seed)
        for seed in experiment.seeds
        for pair in experiment.pairs
        for method in experiment.methods
    ]
    runs: dict[str, Run] = {}
    for run in [*teachers.values(), *students]:
        runs.setdefault(run.run_id, run)  # two pairs may share a teacher
    return list(runs.values())


def _student(experiment: Experiment, pair: PairSpec, teacher: Run, method: Method, seed: int) -> Run:
    return Run(
        experiment=experiment.name,
        role="student",
        pair=pair.name,
        protocol=experiment.protocol,
        budget=experiment.budget.model_copy(update={"longer": False}),
        data=experiment.data,
        network=pair.student,
        teacher=pair.teacher,
        teacher_run=teacher.run_id,
        method=method,
        train=experiment.train,
        seed=seed,
        overrides=experiment.overrides,
    )


def studies(experiment: Experiment) -> list[Study]:
    """What is searched, pair by pair, the methods in the file's order.

    Raises:
        ValueError: the experiment has no search.
    """
    search = experiment.search
    if search is None:
        raise ValueError(
            "search: there is nothing to tune: the ruleset is published. Write protocol: {ruleset: tuned} and "
            "search: {trials: 16, lr: [0.0005, 0.02]}"
        )
    # Checkpoints come with evaluations, where an algorithm may take a trial over; they are no part of its identity.
    train = experiment.train.model_copy(
        update={"steps": search.steps or experiment.train.steps, "checkpoint_every": None}
    )
    found = []
    for pair in experiment.pairs:
        teacher = teacher_run(experiment, pair)
        for method, given in zip(experiment.methods, experiment.given, strict=True):
            student = _student(experiment, pair, teacher, method, search.seed)
            template = student.model_copy(update={"train": train})
            found.append(Study(template, method.label, space_of(method, given, search.lr)))
    return found


def trial_run(
    study: Study, number: int, algorithm: str, values: Mapping[str, float], changes: Sequence[Change] = ()
) -> Run:
    """The run of one trial.

    Args:
        study: what it is a trial of.
        number: its own, from 0.
        algorithm: who proposed it.
        values: of every dimension.
        changes: of population-based training.
    """
    trial = Trial(method=study.label, number=number, algorithm=algorithm, changes=tuple(changes))
    return _pointed(study.template, point_of(study.space, values)).model_copy(update={"trial": trial})


def budget_problems(experiment: Experiment) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is wrong with `budget` beside its types: the key, and what to do."""
    budget = experiment.budget
    if budget.unit == "steps" and budget.seconds is not None:
        yield ("budget", "seconds"), "only with unit: seconds. Delete it, or write unit: seconds beside it"
    if budget.unit == "seconds" and budget.longer:
        yield (
            ("budget", "longer"),
            "only with unit: steps: with seconds the plain student has as many as any. Delete it",
        )


def search_problems(experiment: Experiment) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What is wrong with `search` beside its types: the key, and what to do."""
    search, train, ruleset = experiment.search, experiment.train, experiment.protocol.ruleset
    if search is None:
        if ruleset != "published":
            yield ("search",), f"missing; the ruleset {ruleset} needs e.g. search: {{trials: 16, lr: [0.0005, 0.02]}}"
        return
    if ruleset == "published":
        yield ("search",), "not for the ruleset published. Delete it, or write protocol: {ruleset: tuned} or searched"
        return
    steps = search.steps or train.steps
    if search.lr[0] >= search.lr[1]:
        yield ("search", "lr"), f"is [low, high] with low < high; given {list(search.lr)}"
    if search.seed in experiment.seeds:
        yield ("search", "seed"), f"{search.seed} is one of seeds; a final run is never a trial. Give another seed"
    if steps <= train.schedule.warmup_steps:
        yield ("search", "steps"), f"{steps} steps end in the warm-up (train.schedule.warmup_steps); give more"
    if ruleset == "tuned":
        for key in ONLY_SEARCHED:
            if getattr(search, key) is not None:
                yield ("search", key), "only for the ruleset searched: tuned points are drawn before the first trial"
        return
    if search.algorithm is None:
        yield ("search", "algorithm"), "missing; the ruleset searched allows random, asha, hyperband, pbt, tpe, nsga2"
        return
    for key, algorithms in BY_ALGORITHM.items():
        if getattr(search, key) is not None and search.algorithm not in algorithms:
            yield ("search", key), f"only for {' and '.join(algorithms)}, not {search.algorithm}; delete it"
    if search.algorithm in LOOKS_AT_CURVES and (train.eval_every is None or train.eval_every >= steps):
        yield (
            ("search", "algorithm"),
            f"{search.algorithm} looks at trials on the way; give train.eval_every below the {steps} steps of a trial",
        )
    if search.algorithm == "pbt" and search.trials < 2:
        yield ("search", "trials"), "a population (pbt) is at least 2 trials, better 4 or more"
    if search.grace is not None and search.grace >= steps:
        yield ("search", "grace"), f"is below the {steps} steps of a trial; given {search.grace}"
