"""Which runs see the same batches, and the same teacher's passes of them, so that both can be made once for all."""

from harness.experiment.spec import Run

OF_BATCHES = (
    *("batch_size", "accumulate", "augment", "normalize", "precision", "channels_last", "compile", "deterministic"),
    "teacher_fast",
)
"""What decides, in a recipe, which batches a run sees and how its teacher is run."""


def fed_alike(one: Run, other: Run) -> bool:
    """Whether two runs of a pair see the same batches, and the same teacher's passes where both need them.

    Methods, numbers of steps, optimizers, losses and what is evaluated may differ.
    """
    if not one.role == other.role == "student" or one.checkpoint is not None or other.checkpoint is not None:
        return False
    if (one.pair, one.stream_seed) != (other.pair, other.stream_seed):
        return False
    teachers = {run.teacher_run for run in (one, other) if run.method.needs_teacher}
    if len(teachers) > 1 or one.network != other.network or one.data != other.data:
        return False
    return all(getattr(one.train, key) == getattr(other.train, key) for key in OF_BATCHES)
