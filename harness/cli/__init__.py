"""The command `sstkd-bench`: words in, words out; one file per command."""

import errno
import os
import sys
import tempfile
import traceback

UNEXPECTED = 3
"""The exit code of an error that no command expects."""
LONGEST = 500
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> None:
    """Entry point of `sstkd-bench`."""
    from harness.borders import guard
    from harness.cli.app import app

    guard()
    try:
        app()
    except Exception as error:
        if os.environ.get("SSTKD_BENCH_TRACEBACK"):
            raise
        _flush()
        if isinstance(error, OSError) and error.errno in FULL:  # of standard output, such as --help into a file
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(1) from None
        print(unexpected(error), file=sys.stderr)
        raise SystemExit(UNEXPECTED) from None
    finally:
        _flush()


def _flush() -> None:
    """Nothing is left to be written at exit, where Python would answer a full disk with a traceback and a code 120."""
    try:
        sys.stdout.flush()
    except OSError:  # said by the command where it was about it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def unexpected(error: Exception) -> str:
    """One line on an error that no command expects; the traceback is kept in a file that only the user can read."""
    from harness.borders import one_line
    from harness.errors import text_of
    from harness.results.failures import place

    where = f" [{found}]" if (found := place(error)) else ""
    try:
        number, path = tempfile.mkstemp(prefix="sstkd-bench-error-", suffix=".txt")
        with open(number, "w", errors="backslashreplace") as file:
            file.write("".join(traceback.format_exception(error)))
        kept = f"The traceback is in {path}; please report it"
    except OSError as full:
        kept = f"The traceback cannot be written ({full}); SSTKD_BENCH_TRACEBACK=1 shows it"
    return f"error: unexpected {type(error).__name__}: {one_line(text_of(error), LONGEST)}{where}. {kept}"
