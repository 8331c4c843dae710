"""An export folder on a Hugging Face hub: its own files in one commit, and why they did not arrive.

The token is the library's own (HF_TOKEN, or what `hf auth login` has kept), the hub that of HF_ENDPOINT. Neither the
token nor what a server says of it is written anywhere.
"""

import json
import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import constants, errors

from harness.borders import one_line, quoted, without_secrets
from harness.deployment.bench_script import INPUTS, SCRIPT
from harness.deployment.card import CARD
from harness.deployment.deployed import quiet
from harness.deployment.place import DESCRIPTION, KIND

_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}")
_LONGEST = 96
_FAILURES = (OSError, RuntimeError, ValueError, errors.HTTPError)  # type: ignore[attr-defined]
"""What the hub's library, its transfers (hf_xet) and Python's raise where the network or a server fails."""


def push(folder: Path, repository: str, private: bool = True) -> str:
    """Upload an export: the files that its description lists, its model card and the description, in one commit.

    What `--bench-script` adds is left out: it holds images of the dataset, which are not ours to give away.
    Files that the repository has under other names stay there; those of the same names are replaced.

    Args:
        folder: of an export, as `harness.export` writes it.
        repository: ORGANISATION/NAME; created if it is not there.
        private: whether a new repository is private, so that its licence can be filled in before anybody sees it. One
            that is there stays as visible as it is.

    Returns:
        The address of the commit.

    Raises:
        ValueError: the name or the folder is not what is needed, there is no token, or the hub does not take the files;
            one line with the remedy.
    """
    names = _listed(folder)
    endpoint, token = require_pushable(repository)
    try:
        with quiet():  # the transport's log has what a server sends, which may repeat a request
            api = huggingface_hub.HfApi(endpoint=endpoint, token=token)
            api.create_repo(repository, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repository, folder_path=folder, allow_patterns=names, commit_message="Export by sstkd-bench"
            )
    except _FAILURES as error:
        why = without_secrets(_reason(error, repository, endpoint, token))
        raise ValueError(f"{folder} is not pushed to {repository}: {why}") from None
    return without_secrets(one_line(done.commit_url))


def require_pushable(repository: str) -> tuple[str, str]:
    """Check what an upload needs, before time is spent on an export; the hub's address and the token.

    Raises:
        ValueError: the name is none of a repository, or there is no token or hub.
    """
    if len(repository) > _LONGEST or not _REPOSITORY.fullmatch(repository) or re.search(r"--|\.\.|\.git$", repository):
        raise ValueError(
            f"--push-to-hub {without_secrets(quoted(repository))}: give ORGANISATION/NAME; both have letters, digits, "
            f"'-', '_' and '.', neither '-' nor '.' at an end, no '--', '..' or '.git' at the end, and {_LONGEST} "
            "characters together"
        )
    return _endpoint(), _token()


def _listed(folder: Path) -> list[str]:
    """Names of the files to upload, all of which are there.

    Raises:
        ValueError: the folder holds no export, or not all of it.
    """
    try:
        said = json.loads((folder / DESCRIPTION).read_bytes())
        given = said["files"] if said["kind"] == KIND else None
    except (OSError, ValueError, KeyError, TypeError):
        given = None
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"{folder}: is no folder of an export, which has {DESCRIPTION}; run sstkd-bench export")
    if strange := [name for name in given if not _FILE.fullmatch(name)]:
        raise ValueError(f"{folder}: {DESCRIPTION} names {quoted(strange[0])!r}, which is no file of an export")
    names = list(dict.fromkeys((*sorted(set(given) - {CARD, DESCRIPTION, SCRIPT, INPUTS}), CARD, DESCRIPTION)))
    lacking = [name for name in names if (folder / name).is_symlink() or not (folder / name).is_file()]
    if lacking:
        raise ValueError(f"{folder}: lacks {', '.join(lacking)} as a file of its own; export it again")
    return names


def _endpoint() -> str:
    """The hub's address; read here, since the library reads it once, when it is imported."""
    given = os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT
    parts = urlsplit(given)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"HF_ENDPOINT {without_secrets(quoted(given))}: has to begin with https:// and name a host")
    return given


def _token() -> str:
    """The library's token.

    Raises:
        ValueError: there is none, it cannot be a token, or the library is told to stay offline.
    """
    if constants.HF_HUB_OFFLINE:
        raise ValueError("--push-to-hub: HF_HUB_OFFLINE is set, so that nothing can be uploaded; unset it")
    try:
        token = huggingface_hub.get_token()
    except Exception:  # of a token's exchange in a pipeline, whose message may hold what was exchanged
        token = None
    if token is None:
        raise ValueError(
            "--push-to-hub: there is no token; set HF_TOKEN to one with write access (settings/tokens on the hub), or "
            "log in by: hf auth login"
        )
    if not re.fullmatch(r"[!-~]+", token):
        raise ValueError("--push-to-hub: HF_TOKEN holds spaces or characters that no token has; copy it again")
    return token


def _reason(error: BaseException, repository: str, endpoint: str, token: str) -> str:
    """Why files were not taken, and what to do; without what the server says, which may repeat the request."""
    if type(error) is RuntimeError and error.__cause__ is not None:  # says that a file failed, not why
        error = error.__cause__
    host, status = urlsplit(endpoint).hostname, getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return f"{host} refuses the token; set HF_TOKEN to a valid one with write access"
    if status == 403:
        return (
            f"the token may not write there; give HF_TOKEN one with write access to {repository.partition('/')[0]}, or "
            "name another repository"
        )
    if status == 404:
        return f"{host} has no such organisation or repository, or the token does not see it; check name and HF_TOKEN"
    if status is not None:
        later = "; try again later" if status >= 500 or status == 429 else ""
        return f"{host} answers with status {status}{later}"
    if isinstance(error, errors.HTTPError):  # type: ignore[attr-defined]
        return f"{host} does not answer ({type(error).__name__}); check the network and HF_ENDPOINT, and try again"
    words = one_line(re.sub(r"://\S+", "://...", str(error).replace(token, "***")), 160)
    return f"{type(error).__name__}: {words}; try again"
