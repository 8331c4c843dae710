"""Why a run failed: its message for the row, and its traceback as a file beside the rows."""

import contextlib
import os
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import harness
from harness.borders import QUOTED, quoted, without_secrets
from harness.errors import text_of
from harness.experiment.spec import Run
from harness.files import write_atomic
from harness.results.paths import failure_path

LONGEST = 2000
"""Characters of an error's text in a row; the file has all of it, up to LONGEST_FILE."""
LONGEST_FILE = 1_000_000
AGAIN = "Fix the cause, then re-run with --retry-failed"
REMEDIES = {
    "MemoryError": "The run needs more memory than there is: lower train.batch_size or augment.crop_hw, or raise "
    "train.accumulate, then re-run with --retry-failed",
    "SystemExit": "A method must not end the process: raise an error instead, then re-run with --retry-failed",
    "RecursionError": "A function calls itself without an end; fix it, then re-run with --retry-failed",
}
NO_MEMORY = ("can't allocate memory", "not enough memory")
"""How torch says on a CPU that there is none left."""
REMEDIES["OutOfMemoryError"] = REMEDIES["MemoryError"]
_PACKAGE = os.path.dirname(os.path.realpath(harness.__file__))
_OURS = (_PACKAGE + os.sep, os.path.join(os.path.dirname(_PACKAGE), "sstkd") + os.sep)
_STANDARD = tuple(os.path.realpath(sysconfig.get_path(name)) + os.sep for name in ("stdlib", "platstdlib"))


def title(run: Run) -> str:
    """A run for people: pair, method and seed, and which teacher where there are several."""
    name = "teacher" if run.role == "teacher" else f"method {run.label}"
    taught = "" if run.teacher_seed is None else f", teacher {run.teacher_seed}"
    return f"pair {run.pair}, {name}{taught}, seed {run.seed}"


def message(error: BaseException, run: Run | None = None) -> str:
    """An error as one paragraph for the row: what happened and where; of a run also which, when, and what to do."""
    text = without_secrets(text_of(error)[: 2 * LONGEST_FILE])
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]} ... ({len(text)} characters)"
    found = place(error, () if run is None else _packages(run))
    said = f"{type(error).__name__[:QUOTED]}: {text}" + (f" [{quoted(found)}]" if found else "")
    said = said.encode("utf-8", "backslashreplace").decode()  # a row holds no other text
    if run is None:
        return said
    step = _step(error)
    when = "" if step is None else f", step {step}"
    kinds = [kind.__name__ for kind in type(error).__mro__]
    if isinstance(error, RuntimeError) and any(words in text for words in NO_MEMORY):
        kinds.insert(0, "MemoryError")
    remedy = next((REMEDIES[kind] for kind in kinds if kind in REMEDIES), AGAIN)
    return f"{said} ({title(run)}{when}; traceback: failures/{run.run_id}.txt). {remedy}"


def place(error: BaseException, packages: tuple[str, ...] = ()) -> str:
    """`file.py:12`: the last frame in the user's code that this package called, else the last of this package.

    Empty if there is neither. A script that calls this package is no place of an error in what it called.

    Args:
        error: that was raised.
        packages: names of installed packages that are the user's.
    """
    users, ours = "", ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        path = os.path.realpath(frame.f_code.co_filename)
        where = f"{os.path.basename(path)}:{line}"
        if path.startswith(_OURS):
            ours = where
        elif ours and (_package(frame) in packages or _is_users(path)):
            users = where
    return users or ours


def ends_in_users_code(error: BaseException, run: Run) -> bool:
    """Whether the user's own code raised the error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    while isinstance(error, SystemExit) and len(frames) > 1 and frames[-1].f_code.co_name == "exit":
        frames.pop()  # of a library that watches exits (wandb) in the place of sys.exit
    last = frames[-1:]
    return any(
        _is_users(os.path.realpath(frame.f_code.co_filename)) or _package(frame) in _packages(run) for frame in last
    )


def keep(directory: Path, run: Run, error: BaseException) -> None:
    """Write the traceback beside the rows."""
    try:
        text = "".join(traceback.format_exception(error))
    except Exception as another:  # an error that cannot be printed is still reported
        text = f"{type(error).__name__}; its traceback cannot be printed ({type(another).__name__})\n"
    keep_text(directory, run, text)


def keep_text(directory: Path, run: Run, text: str) -> None:
    """Write what is known of a failure beside the rows."""
    path = failure_path(directory, run.run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = f"{run.run_id}: {title(run)}\n\n"
    write_atomic(path, (head + without_secrets(text[-LONGEST_FILE:])).encode("utf-8", "backslashreplace"))


def forget(directory: Path, run_id: str) -> None:
    """Remove the traceback of an earlier attempt of a run that has finished."""
    failure_path(directory, run_id).unlink(missing_ok=True)


def _packages(run: Run) -> tuple[str, ...]:
    """The packages that the run's method, network, data and task losses come from, where these are not ours."""
    names = (*run.method.name.split("+"), run.network.architecture, run.data.name, *run.train.loss_names)
    named = {name.partition(":")[0].partition(".")[0] for name in names if ":" in name}
    return tuple(sorted(named - {"harness", "sstkd"}))


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def _is_users(path: str) -> bool:
    parts = path.split(os.sep)
    installed = "site-packages" in parts or "dist-packages" in parts
    return os.path.isabs(path) and path.endswith(".py") and not (installed or path.startswith((*_OURS, *_STANDARD)))


def _step(error: BaseException) -> int | None:
    """The training step in which it was raised, from 0; None before the first."""
    with contextlib.suppress(StopIteration):
        # The loop keeps no note of its step for a failure's sake; its frame knows.
        frame = next(_loops(error))
        step = frame.get("i")
        return step if isinstance(step, int) else None
    return None


def _loops(error: BaseException) -> Iterator[dict[str, object]]:
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__") == "harness.training.loop" and frame.f_code.co_name == "steps":
            yield frame.f_locals
