"""The project's own exceptions, beside Python's.

    Exception
    ├── RunFailed    the run failed and its row says why; ends the other ranks of its worker group
    ├── WorkerLost   a worker of a group died, or its machine failed: the run can be tried again
    └── BadFiles     some files of a dataset cannot be read; which ones is reported beside it

Wrong input is a ValueError that says what was given and what is allowed. A full disk is an OSError, a loss that is
not finite a FloatingPointError.
"""

MACHINE_ERRORS = (RuntimeError, OSError, MemoryError)
"""Errors that may not occur on another machine, or later on the same one; any other would occur again."""


class RunFailed(Exception):
    """The run failed and its row says why."""


class WorkerLost(Exception):
    """A worker of a group died, or its machine failed.

    Attributes:
        nodes: ids of the nodes where that was.
    """

    def __init__(self, message: str, nodes: tuple[str, ...] = ()) -> None:
        super().__init__(message, nodes)
        self.nodes = nodes

    def __str__(self) -> str:
        return str(self.args[0])


class BadFiles(Exception):
    """Some files of a dataset cannot be read."""
