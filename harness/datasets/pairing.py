"""The pairs below a dataset's root: images matched with label maps by name, every problem collected as a line."""

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import PurePosixPath

from harness.borders import quoted
from harness.datasets.tree import Tree

NAME = re.compile(r"[^./\\\0][^/\\\0]*")
"""Allowed image names in a list file: no folder, no hidden file, no `..`."""


MISSING = "this folder of the dataset is missing"


class Pairing:
    """Looks for pairs and collects all problems.

    Args:
        tree: the dataset's folder.

    Attributes:
        problems: one line per problem.
        notes: one line per kind of file that is there and not used.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.problems: list[str] = []
        self.notes: list[str] = []
        # Names of refused files; their incomplete pairs are not reported again.
        self._refused: set[str] = set()

    def exists(self, name: str) -> bool:
        """Whether the file or folder exists below the root; a path out of the root is a problem."""
        try:
            return self.tree.file(name).exists()
        except ValueError as error:
            self.problems.append(str(error))
            return False

    def base(self, candidates: Iterable[str], marker: str) -> str | None:
        """The first of `candidates` (folders below the root that end in `/`, or "") that holds `marker`."""
        return next((candidate for candidate in candidates if self.exists(candidate + marker)), None)

    def files(
        self,
        folder: str,
        suffix: str | tuple[str, ...],
        key: Callable[[str], str] = lambda name: PurePosixPath(name).stem,
        deep: bool = False,
        needed: bool = True,
    ) -> dict[str, str]:
        """The files of a folder by key, sorted by name.

        Args:
            folder: below the root.
            suffix: of the files.
            key: maps a file's name below the root to a key that is equal for an image and its label map.
            deep: include the sub-folders (one level).
            needed: report a folder without such files as a problem.
        """
        try:
            names = self.tree.names(folder, suffix, deep)
        except ValueError as error:
            self.problems.append(str(error))
            return {}
        if not names and needed:
            there = (self.tree.root / folder).is_dir()
            kinds = suffix if isinstance(suffix, str) else ", ".join(suffix)
            what = (
                f"no file here ends in {kinds}{self._instead(folder) if kinds[0] == '.' else ''}" if there else MISSING
            )
            self.problems.append(f"{self.tree.root / folder}: {what}")
        found: dict[str, str] = {}
        for name in names:
            try:
                self.tree.file(name)
            except ValueError as error:
                self.problems.append(str(error))
                self._refused.add(key(name))
                continue
            if (other := found.setdefault(key(name), name)) != name:
                self.problems.append(f"{self.tree.root / name}: {other} has the same name; keep one of the two")
        return found

    def _instead(self, folder: str) -> str:
        """What the files of a folder end in, the most frequent first."""
        with contextlib.suppress(ValueError):
            found = Counter(PurePosixPath(name).suffix or "no suffix" for name in self.tree.names(folder, ""))
            if found:
                return f"; {', '.join(f'{count} in {quoted(end)}' for end, count in found.most_common(3))}"
        return ""

    def leave(self, folder: str, suffix: str | tuple[str, ...], why: str, deep: bool = False) -> None:
        """Note the files of a folder that are not used, counted."""
        try:
            names = self.tree.names(folder, suffix, deep)
        except ValueError:  # a folder that cannot be listed holds no data
            return
        if names:
            some = ", ".join(quoted(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")
            self.notes.append(f"{folder}: {len(names)} files are not used ({some}), {why}")

    def lists(self, file: str, name_of: Callable[[str], str] = lambda line: line) -> list[str]:
        """The names in a list file, each once; `name_of` extracts the name from a line."""
        try:
            lines = self.tree.lines(file)
        except ValueError as error:
            self.problems.append(str(error))
            return []
        names: dict[str, None] = {}
        for line in lines:
            name = name_of(line)
            if not NAME.fullmatch(name):
                self.problems.append(f"{self.tree.root / file}: {quoted(repr(line), 200)} is not the name of an image")
            elif name in names:
                self.problems.append(f"{self.tree.root / file}: {name} is listed twice")
            else:
                names[name] = None
        return list(names)

    def matched(
        self, images: Mapping[str, str], labels: Mapping[str, str], label_of: Callable[[str], str]
    ) -> list[str]:
        """Keys that have an image and a label map, in the images' order; a line for each unmatched file.

        Args:
            images: image files by key.
            labels: label maps by key.
            label_of: expected path of a key's label map.
        """
        if not images or not labels:  # a missing or empty folder is already reported
            return []
        self.orphans(labels, images)
        return [key for key in images if self._labelled(images[key], key, labels, label_of)]

    def listed(
        self,
        file: str,
        names: Iterable[str],
        images: Mapping[str, str],
        labels: Mapping[str, str],
        image_of: Callable[[str], str],
        label_of: Callable[[str], str],
    ) -> list[str]:
        """Those of a list file's names that have an image and a label map; a line for each of the others.

        Args:
            file: the list file, for messages.
            names: names in the list file.
            images: image files by name.
            labels: label maps by name.
            image_of: expected path of a name's image.
            label_of: expected path of its label map.
        """
        whole = []
        for name in names:
            if name in images:
                if self._labelled(images[name], name, labels, label_of):
                    whole.append(name)
            elif images and name not in self._refused:
                what = f"{quoted(name, 200)} is listed, and {quoted(image_of(name), 200)} is missing"
                self.problems.append(f"{self.tree.root / file}: {what}")
        return whole

    def _labelled(self, image: str, key: str, labels: Mapping[str, str], label_of: Callable[[str], str]) -> bool:
        if key not in labels and labels and key not in self._refused:
            self.problems.append(f"{self.tree.root / image}: its label map {label_of(key)} is missing")
        return key in labels

    def orphans(self, labels: Mapping[str, str], images: Collection[str]) -> None:
        """A line for each label map without an image."""
        if not images:
            return
        for key, label in labels.items():
            if key not in images and key not in self._refused:
                self.problems.append(f"{self.tree.root / label}: a label map without an image")


def one_of(dataset: str, parameter: str, given: str, allowed: Collection[str]) -> None:
    """Check a dataset's parameter.

    Raises:
        ValueError: `given` is not one of `allowed`.
    """
    if given not in allowed:
        raise ValueError(f"{dataset}: {parameter} is {given!r}; allowed: {', '.join(allowed)}")
