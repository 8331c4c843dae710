"""The package of a cluster job: a folder as one zip file, without large, secret or generated files."""

import io
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

from harness.borders import one_line, quoted
from harness.cluster import secret_patterns

LIMIT_BYTES = 100 * 2**20
"""Size limit of a request to Ray's job server, and so of the package."""
MAX_FILES = 10_000
MAX_BYTES = 2**30
"""Of all files before they are compressed: every node unpacks them."""
LONGEST = 300
"""Characters of a file name that are shown."""
SHOWN = 5
"""How many files the short list names."""
NOT_AT_TOP = ("results", "data", "build", "dist", "site")
NOT_ANYWHERE = (
    *(".git", ".venv", "venv", "node_modules", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info"),
    *("*.pyc", "*.pt", "*.pth", "*.safetensors", "*.onnx", "*.npz", "*.arrow", "*.zip", "*.tar", "*.gz"),
)
"""Patterns of folder or file names: generated or large."""
ENVIRONMENT = "pyvenv.cfg"
"""A folder with this file is a virtual environment, whatever its name."""


@dataclass(frozen=True)
class Contents:
    """What is sent of a folder.

    Attributes:
        folder: the project's folder.
        names: sorted relative paths of the files to send.
        left_out: why a file that would have been sent is not, by relative path; without generated and large files.
    """

    folder: Path
    names: tuple[str, ...]
    left_out: Mapping[str, str]

    def lines(self, everything: bool = False) -> list[str]:
        """The list to show: number, bytes and first names, or every file; what is left out and why."""
        sizes = {name: (self.folder / name).stat().st_size for name in self.names}
        total = f"{len(sizes)} files, {sum(sizes.values()) / 2**20:.1f} MiB"
        if everything:
            said = [f"{size:>12,}  {quoted(name, LONGEST)}" for name, size in sizes.items()]
            said += [f"{'-':>12}  {quoted(name, LONGEST)}: {why}" for name, why in self.left_out.items()]
            return [*said, f"{total}; {len(self.left_out)} left out"]
        said = [f"the job gets {total} of {one_line(str(self.folder))}: {_some(self.names)}"]
        if self.left_out:
            said.append(f"not sent, because secret or a link: {_some(tuple(self.left_out))}")
        return [*said, "all names: --list-files"]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(quoted(name, LONGEST) for name in names[:SHOWN]) + more


def contents(folder: Path, excludes: Sequence[str] = (), includes: Sequence[str] = ()) -> Contents:
    """The files to package; in a git checkout without files that git ignores.

    Args:
        folder: the project's folder.
        excludes: more patterns to leave out, of relative paths or of names in them.
        includes: patterns of files that are sent although their name or content looks like a secret.

    Raises:
        ValueError: more than `MAX_FILES` files or `MAX_BYTES`, a name that is not UTF-8, a secret in a text file, or
            git cannot say what it ignores.
    """
    found: list[str] = []
    left_out: dict[str, str] = {}
    listed = sorted(set(_listed(folder)))  # git lists a file in conflict several times
    environments = {Path(name).parent for name in listed if Path(name).name == ENVIRONMENT} - {Path()}
    for name in listed:
        if environments.intersection(Path(name).parents) or _is_generated(name) or _matches(name, excludes):
            continue
        if why := _reason(folder, name, _matches(name, includes)):
            left_out[name] = why
            continue
        if not (folder / name).is_file():
            continue
        if os.fsencode(name).decode(errors="replace") != name:
            shown = ascii(os.fsencode(name))[2:-1]
            raise ValueError(
                f"{folder}/{shown}: the name is not UTF-8. Rename the file, or leave it out: --exclude GLOB"
            )
        found.append(name)
        if len(found) > MAX_FILES:
            raise ValueError(
                f"{folder}: more than {MAX_FILES} files; a job gets the current folder. Start the command in the "
                "project's folder, or leave folders out: --exclude NAME"
            )
    _refuse_large(folder, found, sum((folder / name).stat().st_size for name in found), MAX_BYTES)
    _refuse_secrets(folder, [name for name in found if not _matches(name, includes)])
    return Contents(folder, tuple(found), left_out)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch(part, pattern) for part in (name, *Path(name).parts) for pattern in patterns)


def _is_generated(name: str) -> bool:
    parts = Path(name).parts
    return parts[0] in NOT_AT_TOP or any(fnmatch(part, pattern) for part in parts for pattern in NOT_ANYWHERE)


def _reason(folder: Path, name: str, included: bool) -> str | None:
    """Why a file is not sent; None if it is."""
    if not included and secret_patterns.is_secret(name):
        return "its name is that of a file with secrets"
    if not (folder / name).is_symlink():
        return None
    target, inside = Path(os.path.realpath(folder / name)), folder.resolve()  # a loop leads to itself
    if not target.is_relative_to(inside):
        return "a link that leads out of the folder"
    if target.is_dir():
        return "a link to a folder"
    if not included and secret_patterns.is_secret(str(target.relative_to(inside))):
        return "a link to a file with secrets"
    return None


def _refuse_secrets(folder: Path, names: Sequence[str]) -> None:
    found: list[str] = []
    for name in names:
        if (folder / name).stat().st_size <= secret_patterns.SCANNED_BYTES:
            lines = secret_patterns.in_file(name, (folder / name).read_bytes())
            found += [f"{quoted(name, LONGEST)}:{line}: looks like {what}" for line, what in lines]
    if not found:
        return
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    raise ValueError(
        "\n".join([*found[:SHOWN], *more])
        + "\nothers could read it on the cluster. Leave the file out: --exclude GLOB, or, if it is no secret, send it: "
        "--include GLOB"
    )


def _listed(folder: Path) -> Iterator[str]:
    # A checkout's own settings must not start programs.
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false"]
    command += ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
    except OSError:  # git is not installed
        done = None
    if done is not None and done.returncode == 0:
        yield from filter(None, os.fsdecode(done.stdout).split("\0"))
        return
    if done is not None and b"not a git repository" not in done.stderr:
        said = one_line(" ".join(done.stderr.decode(errors="replace").split()))[:300]
        raise ValueError(
            f"{folder}: git does not say which files it ignores, and those are not to be sent ({said}). Make git "
            "ls-files work there, or start the command in a copy without .git"
        )
    for here, folders, names in os.walk(folder):
        relative = Path(here).relative_to(folder)
        if ENVIRONMENT in names and relative != Path():
            folders[:], names = [], [ENVIRONMENT]
        yield from (str(relative / name) for name in folders if (Path(here) / name).is_symlink())
        folders[:] = [name for name in folders if not _is_generated(str(relative / name))]
        yield from (str(relative / name) for name in names)


def _refuse_large(folder: Path, names: Sequence[str], size: int, limit: int) -> None:
    """Refuse a package above a limit; names the largest files."""
    if size <= limit:
        return
    sizes = sorted(((folder / name).stat().st_size, name) for name in names)[:-6:-1]
    largest = ", ".join(f"{quoted(name, LONGEST)} ({size / 2**20:.1f} MiB)" for size, name in sizes)
    raise ValueError(
        f"{folder}: the job's package is larger than {limit / 2**20:.0f} MiB. The largest files: {largest}. Leave them "
        "out: --exclude NAME. Data and weights belong on the cluster's own storage."
    )


def write_zip(path: Path, folder: Path, names: Sequence[str], extra: Mapping[str, bytes]) -> None:
    """Zip files of a folder and additional content; equal files give equal bytes.

    Args:
        path: the zip file to write.
        folder: the project's folder.
        names: relative paths in it.
        extra: content by name in the package; readable only by the owner.

    Raises:
        ValueError: the package would be larger than `LIMIT_BYTES`; names the largest files.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        for name in names:
            if name not in extra:
                executable = os.access(folder / name, os.X_OK)
                with (folder / name).open("rb") as file:
                    _add(package, name, file, 0o755 if executable else 0o644)
                if path.stat().st_size > LIMIT_BYTES:
                    break
        for name, content in extra.items():
            _add(package, name, io.BytesIO(content), 0o600)
    _refuse_large(folder, names, path.stat().st_size, LIMIT_BYTES)


def _add(package: zipfile.ZipFile, name: str, content: BinaryIO, mode: int) -> None:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    with package.open(info, "w") as packed:
        shutil.copyfileobj(content, packed)
