"""Transfers rows through a job's log, for a cluster without accessible storage.

On the cluster `python -m harness.cluster.rows_by_log FOLDER` prints the row files; locally `received` reads them.
The transfer is text: nothing from the cluster is unpickled, and every file is validated as a row.
"""

import base64
import binascii
import re
import sys
from pathlib import Path

LIMIT_BYTES = 32 * 2**20
"""Limit for all row files together, because the log is kept on the head node and fetched in one response."""
_NAME = re.compile(r"([a-z_]+/)?runs/[A-Za-z0-9][A-Za-z0-9._-]*\.parquet")
"""Path of a row below the experiment's folder, or below a folder in it with rows of its own."""


def send(folder: Path, limit: int = LIMIT_BYTES) -> None:
    """Print a line per row file (they are compressed already) and one with their number and bytes.

    Raises:
        SystemExit: rows are packed.
    """
    for place in ("packs", "*/packs"):
        for packed in folder.glob(f"{place}/*.parquet"):
            of = packed.parent.parent
            sys.exit(f"{of}: some of its rows are packed. There: sstkd-bench results unpack {of}; then submit again")
    found = (path.relative_to(folder).as_posix() for place in ("runs", "*/runs") for path in folder.glob(f"{place}/*"))
    names = sorted(name for name in found if _NAME.fullmatch(name))
    size = sum((folder / name).stat().st_size for name in names)
    if size <= limit:
        for name in names:
            print("row", name, base64.b64encode((folder / name).read_bytes()).decode())
    print("rows", len(names), size, flush=True)


def received(log: str, where: str) -> dict[str, bytes]:
    """Content by name below the experiment's folder from what `send` printed; other lines of the log are ignored.

    Args:
        log: the job's.
        where: the folder on the cluster, for messages.

    Raises:
        ValueError: there are no rows, they are too large for a log, or the log is corrupt.
    """
    rows: dict[str, bytes] = {}
    count = size = -1
    for line in log.splitlines():
        match line.split(" "):
            case ["row", name, content] if _NAME.fullmatch(name):
                try:
                    rows[name] = base64.b64decode(content, validate=True)
                except binascii.Error:
                    raise ValueError(f"{where}: the row {name} is corrupt; submit again to fetch it") from None
            case ["rows", number, total] if number.isdecimal() and total.isdecimal():
                count, size = int(number), int(total)
    if count == 0:
        raise ValueError(f"{where}: no results on the cluster yet; the log above says why")
    if size > LIMIT_BYTES and not rows:
        raise ValueError(
            f"{where}: {count} rows of {size / 2**20:.1f} MiB are too much for a job's log "
            f"({LIMIT_BYTES / 2**20:.0f} MiB). Copy the folder from the cluster into the results folder here (rsync), "
            "or set resources.storage to a folder or URI that is reached from both sides and submit again: runs that "
            "have finished are not run again."
        )
    if len(rows) != count or sum(map(len, rows.values())) != size:
        raise ValueError(f"{where}: {len(rows)} of {max(count, 0)} rows came; submit again to fetch the others")
    return rows


if __name__ == "__main__":
    send(Path(sys.argv[1]))
