"""What a launcher and a worker group of Ray Train tell each other; plain data."""

from collections.abc import Collection
from dataclasses import dataclass

from harness.experiment.spec import Run
from harness.results import record


class Lost(Exception):
    """A worker of a group died, or its machine did something wrong.

    Attributes:
        nodes: where that was.
    """

    def __init__(self, message: str, nodes: tuple[str, ...] = ()) -> None:
        super().__init__(message, nodes)
        self.nodes = nodes

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True)
class Group:
    """What a worker group has to know; plain data, so that it can be sent."""

    run: str
    experiment: str
    resources: str
    attempt: str
    """Names the try, so that Ray Train does not take it for the one before."""
    barred: tuple[str, ...] = ()
    """Nodes on which the run failed before."""


def not_on_nodes(nodes: Collection[str]) -> dict[str, str] | None:
    """Ray's label selector for every node but these."""
    return {"ray.io/node-id": f"!in({','.join(sorted(nodes))})"} if nodes else None


@dataclass(frozen=True)
class Outcome:
    """How a run left its lane.

    Attributes:
        run: which.
        status: "ok", "failed" (its row says why), or "lost" where there is no row.
        reason: of a loss.
        node: where it was lost.
        error: the disk was full: nothing can go on.
    """

    run: Run
    status: str
    reason: str = ""
    node: str | None = None
    error: OSError | None = None


def judged(run: Run, error: Exception, node: str | None) -> Outcome:
    """A run's outcome from what its future raised."""
    cause = getattr(error, "cause", None) or error
    reason = " ".join(str(cause).split())[:300]
    if record.is_disk_full(cause):
        return Outcome(run, "lost", reason, node, cause)
    if isinstance(cause, Lost) and cause.nodes:
        node = cause.nodes[0]
    return Outcome(run, "lost", reason, node)
