"""A dataset's folder; names in list files and symbolic links outside of it are refused."""

import os
from pathlib import Path


class Tree:
    """The folder of a dataset.

    Args:
        root: the folder.

    Raises:
        ValueError: the folder does not exist.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ValueError(f"{root}: there is no such folder; give the dataset's root")
        self.root = root
        self._real = os.path.realpath(root)
        self._folders: dict[str, bool] = {}

    def file(self, name: str) -> Path:
        """The path of `name`, a `/`-separated path below the root; it need not exist.

        Raises:
            ValueError: `name` is absolute, contains `..`, or a symbolic link leads out of the root.
        """
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            raise ValueError(f"{self.root}: {name!r} leaves the dataset's folder; names are paths below it")
        path = self.root.joinpath(*parts)
        folder = "/".join(parts[:-1])
        if folder not in self._folders:
            self._folders[folder] = self._within(path.parent)
        if not self._folders[folder] or (path.is_symlink() and not self._within(path)):
            raise ValueError(
                f"{path}: a symbolic link leads out of {self.root}; copy the files there or mount the folder"
            )
        return path

    def _within(self, path: Path) -> bool:
        real = os.path.realpath(path)
        return real == self._real or real.startswith(self._real.rstrip(os.sep) + os.sep)

    def names(self, folder: str, suffix: str | tuple[str, ...], deep: bool = False) -> list[str]:
        """Sorted `/`-separated names, below the root, of the files in `folder` that end in `suffix`.

        Args:
            folder: folder below the root; `.` is the root; a missing folder has no files.
            suffix: one or several suffixes such as ".png", case-sensitive.
            deep: include the sub-folders (one level).
        """
        found: list[str] = []
        where = self.file(folder) if folder != "." else self.root
        if not where.is_dir():
            return found
        prefix = "" if folder == "." else f"{folder}/"
        with os.scandir(where) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not _is_text(entry.name):
                    raise ValueError(f"{where}: the name of the file {entry.name!r} is not UTF-8; rename it")
                if deep and entry.is_dir():
                    found += self.names(prefix + entry.name, suffix)
                elif entry.name.endswith(suffix) and entry.is_file():
                    found.append(prefix + entry.name)
        return sorted(found)

    def lines(self, name: str) -> list[str]:
        """Stripped, non-empty lines of a list file below the root.

        Raises:
            ValueError: the file is missing or not text.
        """
        path = self.file(name)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise ValueError(f"{path}: this list of the dataset is missing") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not a text file ({error})") from None
        return [line.strip() for line in text.splitlines() if line.strip()]


def _is_text(name: str) -> bool:
    """Whether a file's name is UTF-8; Python escapes other bytes as surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)
