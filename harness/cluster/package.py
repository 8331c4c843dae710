"""The package of a cluster job: a folder as one zip file, without large, secret or generated files."""

import os
import subprocess
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

LIMIT_BYTES = 100 * 2**20
"""Size limit of a request to Ray's job server."""
MAX_FILES = 10_000
NOT_AT_TOP = ("results", "data", "build", "dist", "site")
NOT_ANYWHERE = (
    *(".git", ".venv", "venv", "node_modules", "__pycache__", ".*_cache", ".hypothesis", "*.egg-info"),
    *(".sstkd-bench-*", ".envrc", ".git-credentials", ".pypirc", ".aws", ".ssh", "id_ecdsa*"),
    *("*.pyc", "*.pt", "*.pth", "*.safetensors", "*.onnx", "*.npz", "*.arrow", "*.zip", "*.tar", "*.gz"),
    *(".env", ".env.*", "*.pem", "*.key", "id_rsa*", "id_ed25519*", ".netrc", "auth_token"),
)
"""Patterns of folder or file names; `.sstkd-bench-JOBID` has the token of a running Slurm job."""
ENVIRONMENT = "pyvenv.cfg"
"""A folder with this file is a virtual environment, whatever its name."""


def files_of(folder: Path, excludes: Sequence[str] = ()) -> list[str]:
    """Sorted relative paths of the files to package; in a git checkout without files that git ignores.

    Args:
        folder: the project's folder.
        excludes: more patterns, of relative paths or of names in them.

    Raises:
        ValueError: more than `MAX_FILES` files, or a file's name is not UTF-8.
    """
    found = []
    listed = sorted(set(_listed(folder)))  # git lists a file in conflict several times
    environments = {Path(name).parent for name in listed if Path(name).name == ENVIRONMENT} - {Path()}
    for name in listed:
        parts = Path(name).parts
        if environments.intersection(Path(name).parents):
            continue
        patterns = (*NOT_ANYWHERE, *excludes)
        if parts[0] in NOT_AT_TOP or any(fnmatch(part, pattern) for part in parts for pattern in patterns):
            continue
        if any(fnmatch(name, pattern) for pattern in excludes) or not (folder / name).is_file():
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
    return found


def _listed(folder: Path) -> Iterator[str]:
    command = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError:  # git is not installed
        done = None
    if done is not None and done.returncode == 0:
        yield from filter(None, os.fsdecode(done.stdout).split("\0"))
        return
    for here, folders, names in os.walk(folder):
        relative = Path(here).relative_to(folder)
        if ENVIRONMENT in names and relative != Path():
            folders[:], names = [], [ENVIRONMENT]
        folders[:] = [name for name in folders if not any(fnmatch(name, pattern) for pattern in NOT_ANYWHERE)]
        if relative == Path():
            folders[:] = [name for name in folders if name not in NOT_AT_TOP]
        yield from (str(relative / name) for name in names)


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
                _add(package, name, (folder / name).read_bytes(), 0o755 if executable else 0o644)
                if path.stat().st_size > LIMIT_BYTES:
                    break
        for name, content in extra.items():
            _add(package, name, content, 0o600)
    if path.stat().st_size <= LIMIT_BYTES:
        return
    sizes = sorted(((folder / name).stat().st_size, name) for name in names)[:-6:-1]
    largest = ", ".join(f"{name} ({size / 2**20:.1f} MiB)" for size, name in sizes)
    raise ValueError(
        f"{folder}: the job's package is larger than the {LIMIT_BYTES / 2**20:.0f} MiB that Ray takes. The largest "
        f"files: {largest}. Leave them out: --exclude NAME. Data and weights belong on the cluster's own storage."
    )


def _add(package: zipfile.ZipFile, name: str, content: bytes, mode: int) -> None:
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.external_attr = mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    package.writestr(info, content)
