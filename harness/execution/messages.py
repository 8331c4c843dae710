"""What the launcher and the workers tell each other; plain data."""

from dataclasses import dataclass

from harness.errors import WorkerLost, text_of
from harness.experiment.spec import Run
from harness.results import record


@dataclass(frozen=True)
class Group:
    """What a worker group needs to know.

    Attributes:
        runs: as JSON; several are fed with the same.
        directory: results folder of the experiment.
        resources: as JSON.
        attempt: distinguishes this attempt from earlier ones of the same runs, for Ray Train.
        barred: ids of nodes on which the run has failed.
    """

    runs: tuple[str, ...]
    directory: str
    resources: str
    attempt: str
    barred: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a run ended.

    Attributes:
        run: which.
        status: "ok", "failed" (its row says why), "lost" (there may be no row), "waiting": it was not begun, for lack
            of memory beside others, or "yielded": its machine is taken away, and it has written its checkpoint.
        reason: why it was lost.
        detail: all that is known of it, such as a traceback.
        node: where it was lost.
        error: the disk is full, so nothing can continue.
        beside_others: it was lost together with other runs, any of which may have been the cause.
    """

    run: Run
    status: str
    reason: str = ""
    detail: str = ""
    node: str | None = None
    error: OSError | None = None
    beside_others: bool = False


def lost(run: Run, error: Exception, node: str | None, beside_others: bool = False) -> Outcome:
    """The outcome of a run whose future raised `error`."""
    cause = getattr(error, "cause", None) or error
    reason = " ".join(text_of(cause).split())[:300] or type(cause).__name__
    detail = text_of(error)  # of an error from another process, Ray gives the traceback as text
    if record.is_disk_full(cause):
        return Outcome(run, "lost", reason, detail, node, cause, beside_others)
    if isinstance(cause, WorkerLost) and cause.nodes:
        node = cause.nodes[0]
    return Outcome(run, "lost", reason, detail, node, None, beside_others)
