"""The fairness protocol: from an experiment to its runs (docs/protocol.md).

Fixed for every method: teacher, student and its initial weights, data and its order, augmentation, recipe, steps,
evaluation. Free: the distiller and, with a search, the hyper-parameters in its space and the learning rate. The student
without distillation (`none`, the baseline) is part of every comparison.
"""

from collections.abc import Mapping

from harness.experiment.budget import Budget, StepTime
from harness.experiment.method import Method
from harness.experiment.recipe import NO_NUMBER
from harness.experiment.rules import ADDED_CONTROL, PLAIN, Found, Key, needs_times, require_control, require_point
from harness.experiment.search_settings import TIMING, Trial
from harness.experiment.space import LR, with_point
from harness.experiment.spec import Experiment, Network, PairSpec, Run

REPEATS = 3
WARM_UP_STEPS, TIMED_STEPS = 5, 25
"""Steps of a timing run; `harness.training.cost.StepClock` leaves out the same warm-up steps."""


def teacher_run(experiment: Experiment, pair: PairSpec, seed: int | None = None) -> Run:
    """The run that trains the pair's teacher of this seed, its first if None, or evaluates the given checkpoint."""
    teacher = pair.teacher
    optimizer = experiment.train.optimizer
    train = experiment.train.model_copy(
        update={
            "steps": teacher.steps or experiment.train.steps,
            "optimizer": optimizer.model_copy(update={"lr": teacher.lr or optimizer.lr}),
        }
    )
    network = {key: getattr(teacher, key) for key in Network.model_fields}
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
        seed=teacher.all_seeds[0] if seed is None else seed,
        overrides=experiment.overrides,
    )


def plan(
    experiment: Experiment,
    found: Mapping[Key, Found] | None = None,
    times: Mapping[Key, StepTime] | None = None,
) -> list[Run]:
    """Every run of the experiment, teachers first, then seed by seed so that partial results are comparable.

    Within a seed all teachers of a pair teach all methods; a method that needs no teacher has one run, under the first.

    Args:
        experiment: any.
        found: the best point of every method on every pair, if the ruleset has a search.
        times: the step time of every method on every pair, if the budget needs it (`needs_times`).

    Raises:
        ValueError: the control `none` is not among the methods, a search's result or step times are missing, or the
            seconds are too few for a method.
    """
    require_point(experiment, found)
    if needs_times(experiment) and times is None:
        raise ValueError(
            "budget: the number of steps follows from the step times, and these have not been measured yet. "
            "First: sstkd-bench run FILE, which measures them"
        )
    runs = outline(experiment) if times is None else within_budget(experiment, times)
    if found is None:
        return runs
    return [run if run.role == "teacher" else _at(run, found[run.pair, run.method.label]) for run in runs]


def foreseen(experiment: Experiment) -> list[Run]:
    """The runs as far as they are known before steps are timed; they name an experiment's job on a cluster.

    Raises:
        ValueError: the ruleset needs a search.
    """
    require_point(experiment, None)
    return outline(experiment)


def timing_runs(experiment: Experiment) -> list[Run]:
    """Runs of a few steps that time a step of each method on each pair, `REPEATS` times, all methods in turn."""
    train = experiment.train.model_copy(
        update={"steps": WARM_UP_STEPS + TIMED_STEPS, "eval_every": None, **dict.fromkeys(NO_NUMBER)}
    )
    runs = []
    for repeat in range(REPEATS):
        for pair in experiment.pairs:
            teacher = teacher_run(experiment, pair)
            for method in experiment.methods:
                run = student_run(experiment, pair, teacher, method, repeat)
                trial = Trial(method=method.label, number=repeat, algorithm=TIMING)
                runs.append(run.model_copy(update={"train": train, "trial": trial}))
    return runs


def within_budget(experiment: Experiment, times: Mapping[Key, StepTime]) -> list[Run]:
    """The runs of `outline` with as many steps as fit into the budget of seconds, and the additional control.

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
        return _timed(run.model_copy(update={"control": ADDED_CONTROL[budget.unit]}), time, count)

    out: list[Run] = []
    # All methods before the controls: an error about a small budget then names a method.
    for run in [within(run) for run in outline(experiment)]:
        plain = run.role == "student" and run.method.name == PLAIN and (run.pair, PLAIN) in times
        out += [run, control(run)] if plain else [run]
    return out


def _fit(seconds: float, ms: float) -> int:
    """Whole steps that fit; the small constant undoes rounding where the budget was computed from steps."""
    return int(1e3 * seconds / ms + 1e-6)


def _timed(run: Run, time: StepTime, steps: int) -> Run:
    warm_up = run.train.schedule.warmup_steps
    if run.budget.unit == "seconds" and steps <= warm_up:
        raise ValueError(
            f"budget: {run.label} on {run.pair} has {steps} steps of {time.ms:.3g} ms, all within the warm-up "
            f"(train.schedule.warmup_steps: {warm_up}). Give more seconds, or fewer warm-up steps"
        )
    return run.model_copy(update={"train": run.train.model_copy(update={"steps": steps}), "step_time": time})


def _at(run: Run, best: Found) -> Run:
    """A final run with the best point of a search."""
    return pointed(run, best.point).model_copy(update={"source": best.source})


def pointed(run: Run, point: Mapping[str, float]) -> Run:
    """A run with the learning rate and the hyper-parameters of a point of its search space."""
    optimizer = run.train.optimizer.model_copy(update={"lr": point[LR]})
    train = run.train.model_copy(update={"optimizer": optimizer})
    return run.model_copy(update={"train": train, "method": with_point(run.method, point)})


def outline(experiment: Experiment) -> list[Run]:
    """The runs of the experiment as if its ruleset were `published`: what is run on what, without any search.

    Raises:
        ValueError: the control `none` is not among the methods.
    """
    require_control(experiment)
    teachers = {
        pair.name: [teacher_run(experiment, pair, seed) for seed in pair.teacher.all_seeds] for pair in experiment.pairs
    }
    # Without a teacher's part in it a run is the same under every teacher. It keeps the first one's run_id, so that an
    # experiment with one teacher that gets more trains nothing again.
    first = [
        student_run(experiment, pair, teacher, method, experiment.seeds[0])
        for pair in experiment.pairs
        for number, teacher in enumerate(teachers[pair.name])
        for method in experiment.methods
        if number == 0 or method.needs_teacher
    ]
    students = [run.model_copy(update={"seed": seed}) for seed in experiment.seeds for run in first]
    runs: dict[str, Run] = {}
    for run in [*(run for each in teachers.values() for run in each), *students]:
        runs.setdefault(run.run_id, run)  # two pairs may share a teacher
    return list(runs.values())


def student_run(experiment: Experiment, pair: PairSpec, teacher: Run, method: Method, seed: int) -> Run:
    """The run of a student with a method and a seed, as the experiment file says."""
    return Run(
        experiment=experiment.name,
        role="student",
        pair=pair.name,
        protocol=experiment.protocol,
        budget=experiment.budget.model_copy(update={"longer": False}),
        data=experiment.data,
        network=pair.student,
        teacher=pair.teacher.model_copy(update={"seed": teacher.seed}) if pair.teacher.seeds else pair.teacher,
        teacher_run=teacher.run_id,
        method=method,
        train=experiment.train,
        seed=seed,
        overrides=experiment.overrides,
    )
