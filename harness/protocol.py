"""The fairness protocol: from an experiment to its runs (docs/protocol.md).

Fixed for every method: teacher, student and its initial weights, data and its order, augmentation, recipe, steps,
evaluation. Free: the distiller. The plain student (`none`) is a control that no comparison goes without.
"""

from harness.spec import Experiment, Method, PairSpec, Run

PLAIN = "none"


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
        budget=experiment.budget,
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


def plan(experiment: Experiment) -> list[Run]:
    """Every run of the experiment, teachers first, then seed by seed so that partial results are comparable.

    Raises:
        ValueError: the control `none` is not among the methods.
    """
    require_control(experiment)
    teachers = {pair.name: teacher_run(experiment, pair) for pair in experiment.pairs}
    students = [
        Run(
            experiment=experiment.name,
            role="student",
            pair=pair.name,
            protocol=experiment.protocol,
            budget=experiment.budget,
            data=experiment.data,
            network=pair.student,
            teacher=pair.teacher,
            teacher_run=teachers[pair.name].run_id,
            method=method,
            train=experiment.train,
            seed=seed,
            overrides=experiment.overrides,
        )
        for seed in experiment.seeds
        for pair in experiment.pairs
        for method in experiment.methods
    ]
    runs: dict[str, Run] = {}
    for run in [*teachers.values(), *students]:
        runs.setdefault(run.run_id, run)  # two pairs may share a teacher
    return list(runs.values())
