"""The project's own exceptions, beside Python's.

    Exception
    ├── RunFailed    the run failed and its row says why; ends the other ranks of its worker group
    ├── WorkerLost   a worker of a group died, or its machine failed: the run can be tried again
    ├── Preempted    the machine is about to be taken away; the run has written its checkpoint
    └── BadFiles     some files of a dataset cannot be read; which ones is reported beside it

Wrong input is a ValueError that says what was given and what is allowed. A full disk is an OSError, a loss that is
not finite a FloatingPointError.
"""

# Whose a failure is: of the machine if another one, or the same one later, may do better; else of the run, which would
# fail again. Classes by name, since torch, Ray and the storages are not loaded here.
MACHINE = {
    "WorkerLost": "its process, or its machine, is gone",
    "RayError": "a process or a node of Ray is lost",
    "BrokenExecutor": "a process that helps is gone",
    "OSError": "network, storage or disk",
    "EOFError": "the process at the other end is gone",
    "DistError": "a process of the worker group, or the network between them",
}
RUN = {
    "OutOfMemoryError": "the run needs more than the GPU has",
    "UnidentifiedImageError": "an image of the data",
    "IsADirectoryError": "a wrong path",
    "NotADirectoryError": "a wrong path",
    "FileExistsError": "a wrong path",
}
"""Goes before `MACHINE`: these are kinds of OSError and RuntimeError."""
# A RuntimeError is known by its text: torch has one class for a wrong shape and for a GPU that is lost.
MACHINE_TEXTS = (
    *("CUDA error", "CUDNN_STATUS_", "CUBLAS_STATUS_", "NCCL", "NVML", "gloo", "Connection closed by peer"),
    *("Connection reset by peer", "DataLoader worker", "No space left on device", "unable to mmap", "Bus error"),
)
RUN_TEXTS = ("device-side assert",)
"""Goes before `MACHINE_TEXTS`: a label or an index beyond its range, found on the GPU."""


def machine_failed(error: BaseException) -> bool:
    """Whether another machine may do better, so that the run is tried again; otherwise the run itself is at fault.

    >>> machine_failed(ConnectionResetError()), machine_failed(RuntimeError("CUDA error: unspecified launch failure"))
    (True, True)
    >>> machine_failed(RuntimeError("size mismatch")), machine_failed(MemoryError()), machine_failed(ValueError())
    (False, False, False)
    """
    names = [kind.__name__ for kind in type(error).__mro__]
    if any(name in RUN for name in names):
        return False
    if any(name in MACHINE for name in names):
        return True
    text = text_of(error) if isinstance(error, RuntimeError) else ""
    return any(each in text for each in MACHINE_TEXTS) and not any(each in text for each in RUN_TEXTS)


def out_of_memory(error: BaseException) -> bool:
    """Whether the process, or its GPU, had no memory left.

    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("[enforce fail] ... not enough memory"))
    (True, True)
    """
    names = [kind.__name__ for kind in type(error).__mro__]
    return "MemoryError" in names or "OutOfMemoryError" in names or "not enough memory" in text_of(error)


def text_of(error: BaseException) -> str:
    """An error's text, which code from outside may fail to give."""
    try:
        return str(error)
    except (Exception, SystemExit) as another:  # the first error is the one to report
        return f"(its text cannot be shown: {type(another).__name__})"


class RunFailed(Exception):
    """The run failed and its row says why.

    Attributes:
        run_id: of the run.
    """

    def __init__(self, message: str, run_id: str = "") -> None:
        super().__init__(message, run_id)
        self.run_id = run_id

    def __str__(self) -> str:
        return str(self.args[0])


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


class Preempted(Exception):
    """The machine is about to be taken away; the run has written its checkpoint and goes on elsewhere."""


class BadFiles(Exception):
    """Some files of a dataset cannot be read."""
