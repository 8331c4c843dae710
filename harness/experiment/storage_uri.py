"""The address of a storage, parsed in one place: nothing of it is lost, and it carries no password."""

import re
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

SCHEMES = ("file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
_AZURE = ("abfs", "abfss")
_SECRET = re.compile(r"access_?key|account_?key|secret|token|passw|pwd|credential|signature|^sig$", re.IGNORECASE)


def is_uri(place: str) -> bool:
    """Whether a place is a URI and not the path of a folder."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place) is not None


def require_storage(place: str) -> str:
    """A storage's address: an absolute folder, or a URI.

    Raises:
        ValueError: neither, an unknown scheme, no bucket, a part that would be lost (`#`, for folders also `?` and a
            host), or a password, key or token in plain text; says which, without repeating it.
    """
    if any(ord(sign) < 32 or ord(sign) == 127 for sign in place):
        raise ValueError("storage: the address has control characters, such as a line break; write it on one line")
    if not is_uri(place):
        if not place.startswith("/"):
            raise ValueError(f"a storage is an absolute folder or a URI such as s3://bucket/prefix; given {place!r}")
        return place
    parts = _parts(place)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    keys = [key for key, _ in parse_qsl(parts.query, keep_blank_values=True)]
    user, at, _ = parts.netloc.rpartition("@")
    if (at and (":" in unquote(user) or parts.scheme not in (*_AZURE, "hdfs"))) or any(map(_SECRET.search, keys)):
        raise ValueError(
            f"{shown}: a storage address must not carry credentials, which would be seen in rows and logs. Put them "
            "into the environment (AWS_ACCESS_KEY_ID, ...)"
        )
    if parts.scheme not in SCHEMES:
        raise ValueError(
            f"{shown}: no storage that pyarrow knows (scheme {parts.scheme!r}); there are {', '.join(SCHEMES)}"
        )
    if "#" in place:
        raise ValueError(f"{shown}: what follows # would be lost. Leave it out, or write %23 for # in a name")
    if parts.scheme == "file":
        if "?" in place:
            raise ValueError(f"{shown}: what follows ? would be lost. Leave it out, or write %3F for ? in a name")
        if parts.netloc:
            raise ValueError(f"{shown}: a folder of the host {parts.netloc!r} cannot be reached; write file:///folder")
        if not parts.path.startswith("/"):
            raise ValueError(f"{shown}: no storage that pyarrow knows (it names no folder); write file:///folder")
    elif not parts.netloc and parts.scheme not in ("hdfs", "viewfs"):
        raise ValueError(f"{shown}: no storage that pyarrow knows (it names no bucket); write s3://bucket/prefix")
    if ".." in unquote(parts.path).split("/"):
        raise ValueError(f"{shown}: '..' in the address of a storage; write the folder itself")
    return place


def _parts(place: str) -> SplitResult:
    try:
        return urlsplit(place)
    except ValueError as error:
        raise ValueError(f"storage: not a URI ({error})") from None
