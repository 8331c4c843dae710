"""Rows through a job's log, for a cluster whose storage cannot be reached otherwise.

On the cluster `python -m harness.sendrows FOLDER` prints the row files; here `received` reads what was printed. Text
only: nothing that comes from a cluster is unpickled, and each file is checked as a row before it counts.
"""

import base64
import binascii
import re
import sys
from pathlib import Path

LIMIT_BYTES = 32 * 2**20
"""Of all row files together; a log is kept on the head node and fetched in one answer."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.parquet")


def send(folder: Path, limit: int = LIMIT_BYTES) -> None:
    """Print a line per row file (they are compressed already) and one with their number and bytes."""
    files = sorted(path for path in (folder / "runs").glob("*.parquet") if _NAME.fullmatch(path.name))
    size = sum(path.stat().st_size for path in files)
    if size <= limit:
        for path in files:
            print("row", path.name, base64.b64encode(path.read_bytes()).decode())
    print("rows", len(files), size, flush=True)


def received(log: str, where: str) -> dict[str, bytes]:
    """Content by file name from what `send` printed; other lines of the log are passed over.

    Args:
        log: the job's.
        where: the folder on the cluster, for messages.

    Raises:
        ValueError: there are no rows, they are too large for a log, or the log is damaged.
    """
    rows: dict[str, bytes] = {}
    count = size = -1
    for line in log.splitlines():
        match line.split(" "):
            case ["row", name, content] if _NAME.fullmatch(name):
                try:
                    rows[name] = base64.b64decode(content, validate=True)
                except binascii.Error:
                    raise ValueError(f"{where}: the row {name} came damaged; submit again to fetch it") from None
            case ["rows", number, total] if number.isdecimal() and total.isdecimal():
                count, size = int(number), int(total)
    if count == 0:
        raise ValueError(f"{where}: there are no rows on the cluster; the log above says why")
    if size > LIMIT_BYTES and not rows:
        raise ValueError(
            f"{where}: {count} rows of {size / 2**20:.1f} MiB are too much for a job's log "
            f"({LIMIT_BYTES / 2**20:.0f} MiB). Copy the folder from the cluster into the results folder here (rsync), "
            "or set resources.storage to a folder or URI that is reached from both sides and submit again: runs that "
            "have a row are not run again."
        )
    if len(rows) != count or sum(map(len, rows.values())) != size:
        raise ValueError(f"{where}: {len(rows)} of {max(count, 0)} rows came; submit again to fetch the others")
    return rows


if __name__ == "__main__":
    send(Path(sys.argv[1]))
