"""Files of published weights on this machine: where the Hugging Face hub's and torch's caches have them, and fetching.

Both libraries' own caches are used, with the variables that set them: HF_HOME, HF_HUB_CACHE, HF_ENDPOINT,
HF_HUB_OFFLINE, HF_TOKEN, TORCH_HOME. Files are written beside their place and renamed when they are whole.
"""

import errno
import fcntl
import http.client
import logging
import os
import re
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import huggingface_hub
import torch
from huggingface_hub import constants, errors

from harness.borders import one_line, shell
from harness.experiment.weights import IN_FOLDERS, Origin
from harness.files import sha256

CARD = "README.md"
CONFIG, PREPROCESSOR = DESCRIPTIONS = ("config.json", "preprocessor_config.json")
"""Of a network and of its images, beside its weights."""
_MOST_OF_A_CARD = 100_000
_FAILURES = (
    *(OSError, RuntimeError, EOFError, http.client.HTTPException),
    *(errors.HTTPError, errors.HFValidationError, errors.EntryNotFoundError),  # type: ignore[attr-defined]
)
"""What the hub's library, its transfers (hf_xet) and Python's raise where the network or a server fails."""
_TIMEOUT = 60.0
"""Seconds without a byte after which an address does not answer."""


@dataclass(frozen=True)
class Place:
    """Where a library publishes weights.

    Attributes:
        kind: "hub" for a repository, "url" for a single address.
        name: the repository or the address.
        files: names of the file in the repository, the preferred one first; of an address, the name in torch's cache.
        revision: branch, tag or commit of the repository; its main branch when None.
    """

    kind: Literal["hub", "url"]
    name: str
    files: tuple[str, ...]
    revision: str | None = None

    def __str__(self) -> str:
        if self.kind == "url":
            return self.name
        return f"{self.files[0]} of the repository {self.name}" + (f" at {self.revision}" if self.revision else "")


def place_of(origin: Origin) -> Place:
    """The place of weights that were found before, perhaps on another machine: the very revision and file."""
    assert origin.kind in ("hub", "url")
    return Place("hub" if origin.kind == "hub" else "url", origin.name, (origin.file,), origin.revision)


def by_url(url: str) -> Place:
    """The place of a file that has an address of its own."""
    return Place("url", url, (os.path.basename(urlsplit(url).path),))


def at_hand(place: Place) -> tuple[Path, Origin] | None:
    """The file and its origin, if it is in a cache of this machine; nothing is fetched.

    Raises:
        ValueError: a file of this name is there and has not the digest that its name claims.
    """
    if place.kind == "url":
        path = _torch_cache() / place.files[0]
        return (_checked(path), Origin(kind="url", name=place.name, file=path.name)) if path.is_file() else None
    for file in place.files:
        found = huggingface_hub.try_to_load_from_cache(place.name, file, revision=place.revision)
        if isinstance(found, str):
            return _in_cache(place, file, found)
    return None


def fetch(place: Place) -> tuple[Path, Origin]:
    """The file and its origin; it is fetched unless it is here already, once for all processes of this machine.

    Raises:
        ValueError: there is no such file, or none for this user; says why, and how to put it here by hand.
        ConnectionError: the network or a server fails, so that another machine, or this one later, may do better.
        OSError: the disk is full.
    """
    level = huggingface_hub.logging.get_verbosity()
    huggingface_hub.logging.set_verbosity(logging.ERROR)  # what it tries again is no news
    try:
        return at_hand(place) or (_from_hub(place) if place.kind == "hub" else _from_url(place))
    except _FAILURES as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        kind = ValueError if _stays(error) else ConnectionError
        raise kind(f"{place} cannot be fetched: {_reason(error)}. {by_hand(place)}") from None
    finally:
        huggingface_hub.logging.set_verbosity(level)


def by_hand(place: Place) -> str:
    """How a file comes here without a network of this machine: the command for another, and where to put it."""
    if place.kind == "url":
        file = place.files[0]
        return (
            f"On a machine with a network: {shell('curl', '-L', place.name, '-o', file)}; then put {file} into "
            f"{_torch_cache()} here"
        )
    command = ["hf", "download", place.name, place.files[0]]
    command += ["--revision", place.revision] if place.revision else []
    folder = f"models--{place.name.replace('/', '--')}"
    return (
        f"On a machine with a network: {shell(*command)}; then copy its ~/.cache/huggingface/hub/{folder} to "
        f"{Path(constants.HF_HUB_CACHE) / folder} here"
    )


def _from_hub(place: Place) -> tuple[Path, Origin]:
    for file in place.files:
        try:
            found = huggingface_hub.hf_hub_download(place.name, file, revision=place.revision)
        except errors.LocalEntryNotFoundError:  # no network, or told to use none
            raise
        except errors.EntryNotFoundError:
            continue
        path, origin = _in_cache(place, file, found)
        for name in DESCRIPTIONS if place.files == IN_FOLDERS else ():  # what a whole network is described by
            _beside(place.name, name, origin.revision)
        if origin.licence is None and _beside(place.name, CARD, origin.revision):
            origin = _in_cache(place, file, found)[1]
        return path, origin
    raise ValueError(
        f"the repository {place.name} has none of {', '.join(place.files)}. Fetch the file that it has, and name it: "
        "{path: FILE}"
    )


def _from_url(place: Place) -> tuple[Path, Origin]:
    folder = _torch_cache()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / place.files[0]
    with _alone(folder / f".{path.name}.lock"):
        if not path.is_file():
            _download(place.name, path)
    return _checked(path), Origin(kind="url", name=place.name, file=path.name)


def _download(address: str, path: Path) -> None:
    """Fetch a file, and put it in its place when it is whole.

    Raises:
        OSError: it is not.
        ValueError: its digest is not what its name claims.
    """
    part, claimed = path.with_name(f".{path.name}.part"), _claimed(path.name)
    asked = urllib.request.Request(address, headers={"User-Agent": "sstkd-bench"})
    try:
        with urllib.request.urlopen(asked, timeout=_TIMEOUT) as answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file, 2**20)
            left = getattr(answer, "length", None)  # of those that Content-Length promises
        if left:
            raise ConnectionError(f"{part.stat().st_size} bytes arrived, and {left} more did not")
        if claimed is not None and not sha256(part).startswith(claimed):
            raise ValueError(f"{address} cannot be fetched: what arrives has not the digest that its name claims")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process of this machine at a time."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _in_cache(place: Place, file: str, found: str) -> tuple[Path, Origin]:
    """A file of the hub's cache: .../snapshots/COMMIT/FILE."""
    commit = Path(found).parents[file.count("/")].name
    licence = _licence(place.name, commit)
    return Path(found), Origin(kind="hub", name=place.name, revision=commit, file=file, licence=licence)


def _beside(repository: str, file: str, commit: str | None) -> bool:
    """Fetch a file that describes a repository, or names its licence; it may have none."""
    try:
        return bool(huggingface_hub.hf_hub_download(repository, file, revision=commit))
    except (*_FAILURES, ValueError):
        return False


def _licence(repository: str, commit: str) -> str | None:
    """The licence that the head of a repository's description names; None where it is not here or names none."""
    path = huggingface_hub.try_to_load_from_cache(repository, CARD, revision=commit)
    if not isinstance(path, str):
        return None
    text = Path(path).read_bytes()[:_MOST_OF_A_CARD].decode("utf-8", "replace")
    head = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    named = dict(re.findall(r"^(license|license_name):[ \t]*[\"']?([^\"'\n#]+)", head[1] if head else "", re.MULTILINE))
    found = named.get("license", "").strip()
    return one_line(named.get("license_name", found).strip() if found == "other" else found, 100) or None


def _torch_cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _claimed(name: str) -> str | None:
    """The beginning of a file's SHA-256 that its name has: resnet50-0676ba61.pth."""
    found = re.search(r"-([a-f0-9]{8,64})\.", name)
    return found[1] if found else None


def _checked(path: Path) -> Path:
    claimed = _claimed(path.name)
    if claimed is not None and not sha256(path).startswith(claimed):
        raise ValueError(
            f"{path}: has not the sha256 that its name claims ({claimed}...). Delete it, and it is fetched again."
        )
    return path


def _stays(error: BaseException) -> bool:
    """Whether a failure stays what it is, wherever and whenever it is tried again."""
    if isinstance(error, errors.LocalEntryNotFoundError):
        return False
    status = getattr(error, "code", None) or getattr(getattr(error, "response", None), "status_code", None)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)
    return refused or isinstance(error, errors.HFValidationError | errors.EntryNotFoundError)


def _reason(error: BaseException) -> str:
    """Why a file did not come, in words without addresses and tokens."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, errors.GatedRepoError):
        return "its terms have to be accepted on its page first; then set HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return "there is no such revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private (set HF_TOKEN)"
    if isinstance(error, errors.HFValidationError):
        return "this is no repository's name"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return f"{urlsplit(constants.ENDPOINT).hostname} does not answer"
    words = getattr(error, "reason", None) or error.strerror if isinstance(error, OSError) else None
    return one_line(re.sub(r"\w+://\S+", "...", str(words or error)) or type(error).__name__, 160)
