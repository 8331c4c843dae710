"""Storage of results: a folder, or a file system that pyarrow addresses by a URI (s3://, gs://, abfs://, hdfs://).

Files are written atomically: by a rename in folders, by a move on other file systems, and on object stores because an
upload becomes visible only when it is complete. Credentials come from the environment, never from the URI.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.experiment.storage_uri import is_uri, require_storage
from harness.files import write_atomic

OBJECT_STORES = ("s3", "gcs", "abfs")  # no folders to create; an upload is visible when it is complete


@dataclass(frozen=True)
class Entry:
    """A file: its name below the listed folder, bytes, and seconds since 1970 of its last change."""

    name: str
    size: int
    modified: float


class Storage:
    """A place for files, named relative to it by `folder/file`.

    Args:
        place: a folder, or a URI such as `s3://bucket/prefix?endpoint_override=host%3Aport&scheme=http`.

    Raises:
        ValueError: as `harness.experiment.storage_uri.require_storage`, or pyarrow does not understand it.
        OSError: the file system does not answer.

    Example:
        >>> Storage("results").below("quickstart").place
        'results/quickstart'
    """

    def __init__(self, place: str | Path) -> None:
        self.place = _plain(str(place))
        self._fs: Any = None
        self._query = ""
        self._base = Path(place)
        if is_uri(self.place):
            self._connect()

    def _connect(self) -> None:
        require_storage(self.place)
        from pyarrow.fs import FileSystem, LocalFileSystem

        place, mark, query = self.place.partition("?")
        self.place, self._query = _plain(place), mark + query
        try:
            self._fs, base = FileSystem.from_uri(self.place + self._query)
        except (ValueError, NotImplementedError, TypeError) as error:
            raise ValueError(f"{self.place}: no storage that pyarrow knows ({error})") from None
        if not base:
            raise ValueError(f"{self.place}: no storage that pyarrow knows (it names no bucket)")
        self._base = Path(base)
        if isinstance(self._fs, LocalFileSystem):
            self._fs = None

    def __repr__(self) -> str:
        return f"Storage({self.uri!r})"

    @property
    def uri(self) -> str:
        """The address of this storage, valid on other machines too."""
        return self.place + self._query

    @property
    def folder(self) -> Path | None:
        """The folder, if the storage is one on this machine; else None."""
        return self._base if self._fs is None else None

    def below(self, name: str) -> "Storage":
        """The folder `name` of this storage, whether or not it exists."""
        return Storage(f"{self.place}{'' if self.place.endswith('/') else '/'}{name}{self._query}")

    def read(self, name: str) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: there is none.
            OSError: it cannot be read.
        """
        if self._fs is None:
            return (self._base / name).read_bytes()
        with self._named(name), self._fs.open_input_stream(self._path(name)) as file:
            content: bytes = file.read()
        return content

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically, replacing an existing one.

        Raises:
            OSError: the storage is full or cannot be written; what was there before is unchanged.
        """
        if self._fs is None:
            (self._base / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._base / name, content)
            return
        path = self._path(name)
        with self._named(name):
            if self._fs.type_name in OBJECT_STORES:
                with self._fs.open_output_stream(path) as file:
                    file.write(content)
                return
            folder, _, last = path.rpartition("/")
            self._fs.create_dir(folder, recursive=True)
            hidden = f"{folder}/.{last}.{uuid.uuid4().hex[:8]}.tmp"
            with self._fs.open_output_stream(hidden) as file:
                file.write(content)
            self._fs.move(hidden, path)

    def entries(self, folder: str = "") -> list[Entry]:
        """The files directly in a folder, by name; none if there is no such folder. Hidden ones are left out."""
        if self._fs is None:
            return sorted(_scanned(self._base / folder), key=lambda entry: entry.name)
        from pyarrow.fs import FileSelector, FileType

        with self._named(folder):
            found = self._fs.get_file_info(FileSelector(self._path(folder), allow_not_found=True))
        return sorted(
            (
                Entry(info.base_name, info.size, (info.mtime_ns or 0) / 1e9)
                for info in found
                if info.type == FileType.File and not info.base_name.startswith(".")
            ),
            key=lambda entry: entry.name,
        )

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly in a folder; none if there is no such folder."""
        if self._fs is None:
            place = self._base / folder
            return sorted(path.name for path in place.iterdir() if path.is_dir()) if place.is_dir() else []
        from pyarrow.fs import FileSelector, FileType

        with self._named(folder):
            found = self._fs.get_file_info(FileSelector(self._path(folder), allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == FileType.Directory)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self._fs is None:
            (self._base / name).unlink(missing_ok=True)
            return
        try:
            self._fs.delete_file(self._path(name))
        except FileNotFoundError:
            return

    def remove_folder(self, folder: str = "") -> None:
        """Remove a folder and all in it, if it is there."""
        if self._fs is None:
            shutil.rmtree(self._base / folder, ignore_errors=True)
            return
        try:
            self._fs.delete_dir(self._path(folder))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        return (self._base / name).as_posix()

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Add the file's address to errors of the storage, which pyarrow often omits."""
        try:
            yield
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.place}/{name}: there is no such file") from None
        except OSError as error:
            said = f"{self.place}/{name}: {' '.join(str(error).split())[:300]}"
            if error.errno is not None:
                raise OSError(error.errno, said) from None
            raise OSError(f"{said}. Check the address, and the credentials in the environment.") from None


def _plain(place: str) -> str:
    """Without trailing slashes, except for a root's and the two of a URI's scheme."""
    start = len(place) - len(place.partition("://")[2]) if is_uri(place) else 0
    rest = place[start:]
    return place[:start] + (rest.rstrip("/") or rest[:1] or ("" if start else "/"))


def _scanned(folder: Path) -> Iterator[Entry]:
    try:
        with os.scandir(folder) as found:
            for item in found:
                if item.is_file() and not item.name.startswith("."):
                    status = item.stat()
                    yield Entry(item.name, status.st_size, status.st_mtime)
    except (FileNotFoundError, NotADirectoryError):
        return
