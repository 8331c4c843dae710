"""Where an export's files go: put in their place when they are complete, over an earlier export at most."""

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.deployment.source import Form
from harness.files import write_atomic
from harness.results.exports import exports_folder, files_folder

DESCRIPTION = "export.json"
ABANDONED_SECONDS = 2 * 24 * 3600
KIND = "sstkd-bench export"
"""What `kind` of the description says."""


def place_of(files: Path, run_id: str, target: str, form: Form) -> Path:
    """A folder of its own for each run and form, below that of all exported files."""
    size = "" if form.size_hw is None else f"-{form.size_hw[0]}x{form.size_hw[1]}"
    batch = "" if form.batch is None else f"-batch{form.batch}"
    int8 = "" if form.calibration is None else "-int8-every" if form.every_layer else "-int8"
    rest = f"{'-bytes' if form.preprocessing else ''}{int8}"
    return files / f"{run_id}-{target}{size}{batch}{rest}"


def require_place(to: Path, directory: Path) -> Path:
    """Check that files may go into a folder, before time is spent on them; returns its resolved path.

    Raises:
        ValueError: it holds something else than an export, lies among an experiment's results, or rows cannot be
            written there.
    """
    given, to = to, to.expanduser().resolve()
    own = directory.resolve()
    if to == own or (to.is_relative_to(own) and to.parent != files_folder(own)):
        raise ValueError(
            f"-o {given}: lies among the results of {directory.name}; give a folder elsewhere, or leave it out"
        )
    if to.exists() and not to.is_dir():
        raise ValueError(f"-o {given}: is a file; give a folder")
    if to.exists() and any(to.iterdir()) and _listed(to) is None:
        raise ValueError(
            f"-o {given}: holds something else than one export{_foreign(to)}, which is not replaced; move it away or "
            "give another folder"
        )
    for folder in (to, exports_folder(own)):
        there = next(each for each in (folder, *folder.parents) if each.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            raise ValueError(f"-o {given}: you cannot write into {there}, where the files or their row would go")
    return to


def _listed(folder: Path) -> list[str] | None:
    """Names of the files of the export that a folder holds; None if it holds something else too, or none."""
    try:
        said = json.loads((folder / DESCRIPTION).read_bytes())
        names = [DESCRIPTION, *map(str, said["files"])] if said["kind"] == KIND else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if names is None or {path.name for path in folder.iterdir()} - set(names):
        return None
    return names if all((folder / name).is_file() for name in names if (folder / name).exists()) else None


def _foreign(folder: Path) -> str:
    """The first names in a folder that are no files of the export that it holds."""
    try:
        own = {DESCRIPTION, *map(str, json.loads((folder / DESCRIPTION).read_bytes())["files"])}
    except (OSError, ValueError, KeyError, TypeError):
        own = set()
    names = sorted({path.name for path in folder.iterdir()} - own)
    return f" ({', '.join(names[:3])}{' ...' if len(names) > 3 else ''})" if names else ""


@contextmanager
def written_beside(to: Path) -> Iterator[Path]:
    """A hidden folder beside the place, for the files; it is gone afterwards, whatever happens.

    Hidden folders of the same place that a killed process left are removed if they are older than any export takes.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    hidden_here = re.compile(rf"\.{re.escape(to.name)}\.[a-z0-9_]{{8}}\.part")
    for left in [path for path in to.parent.iterdir() if hidden_here.fullmatch(path.name)]:
        if time.time() - left.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    hidden = Path(tempfile.mkdtemp(prefix=f".{to.name}.", suffix=".part", dir=to.parent))
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def put(hidden: Path, to: Path, description: Mapping[str, Any]) -> None:
    """Move the files into their place, the description last, over those of the export that is there.

    Until then its description names the files of both, so that what an interruption leaves can be replaced.

    Raises:
        ValueError: something else is there by now.
    """
    names = sorted(path.name for path in hidden.iterdir())
    to.mkdir(exist_ok=True)
    old = _listed(to) if any(to.iterdir()) else []
    if old is None:
        raise ValueError(f"-o {to}: holds something else than an export by now, so that it is not replaced")
    _describe(to, {"kind": KIND, "incomplete": True, "files": sorted({*names, *old} - {DESCRIPTION})})
    for name in set(old) - {*names, DESCRIPTION}:
        (to / name).unlink(missing_ok=True)
    for name in names:
        (hidden / name).chmod(0o644)  # safetensors makes files that are their owner's alone
        os.replace(hidden / name, to / name)
    _describe(to, {"kind": KIND, **description, "files": names})


def _describe(to: Path, description: Mapping[str, Any]) -> None:
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in description.items())
    write_atomic(to / DESCRIPTION, f"{{\n{lines}\n}}\n")
