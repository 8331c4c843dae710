"""A search as studies: one per pair and method, and the runs that are its trials."""

from collections.abc import Mapping
from dataclasses import dataclass

from harness.experiment.plan import pointed, student_run, teacher_run
from harness.experiment.recipe import NO_NUMBER
from harness.experiment.rules import Key
from harness.experiment.search_settings import Trial
from harness.experiment.space import Space, point_of, settings_of, space_of, tied_space_of, values_in
from harness.experiment.spec import Experiment, Run


@dataclass(frozen=True)
class Study:
    """The search of one method on one pair.

    Attributes:
        template: the run of a trial with the first search seed, without its point and its number.
        label: the method's label in the experiment; a trial's own label contains its point.
        space: the hyper-parameters that are searched.
        seeds: the search seeds.
    """

    template: Run
    label: str
    space: Space
    seeds: tuple[int, ...]

    @property
    def key(self) -> Key:
        """The pair's name and the method's label."""
        return self.template.pair, self.label

    @property
    def published(self) -> dict[str, float]:
        """The published point, as values of the dimensions: it may lie outside their ranges.

        These are the values in the experiment file, else the defaults, and the recipe's learning rate.
        """
        return values_in(self.space, self.template.method.parameters, self.template.train.optimizer.lr)


def studies_of(experiment: Experiment) -> list[Study]:
    """All studies, pair by pair, with the methods in the file's order.

    Raises:
        ValueError: the experiment has no search.
    """
    search = experiment.search
    if search is None:
        raise ValueError(
            "search: there is nothing to tune: the ruleset is published. Write protocol: {ruleset: tuned} and "
            "search: {trials: 16, lr: [0.0005, 0.02]}"
        )
    # Checkpoints come with evaluations, where an algorithm may pause a trial; they are no part of its identity.
    train = experiment.train.model_copy(
        update={"steps": search.steps_of(experiment.train.steps), **dict.fromkeys(NO_NUMBER)}
    )
    tied = search.algorithm is None and not search.untied
    found = []
    for pair in experiment.pairs:
        teacher = teacher_run(experiment, pair)
        for method, given in zip(experiment.methods, experiment.given, strict=True):
            base = student_run(experiment, pair, teacher, method, search.run_seeds[0])
            template = base.model_copy(update={"train": train})
            space = (tied_space_of if tied else space_of)(method, given, search.lr)
            found.append(Study(template, method.label, space, search.run_seeds))
    return found


def trial_run(study: Study, number: int, algorithm: str, values: Mapping[str, float], seed: int | None = None) -> Run:
    """The run of one trial.

    Args:
        study: that the trial belongs to.
        number: of the trial's point, from 0.
        algorithm: that proposed it.
        values: of every dimension.
        seed: one of the search seeds; the first if None.
    """
    trial = Trial(method=study.label, number=number, algorithm=algorithm)
    run = pointed(study.template, settings_of(study.space, point_of(study.space, values)))
    return run.model_copy(update={"trial": trial, "seed": study.seeds[0] if seed is None else seed})
