"""Where a worker keeps an experiment's files: the results folder itself or, with a storage, a folder of its machine.

With a storage, the files that a run needs are fetched before it, and its results are uploaded after it, the row last:
where there is a row, the run's other files are there too.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from harness.experiment.resources import Resources
from harness.experiment.spec import Run
from harness.files import cache_home, write_atomic
from harness.results import paths, store
from harness.results.paths import checkpoint_directory, per_image_path, weights_path
from harness.results.pull import fetch
from harness.results.storage import Storage

if TYPE_CHECKING:
    from harness.training.checkpoints import Checkpoints

FILES = (weights_path, per_image_path, paths.failure_path, paths.run_path)
"""Of a run; the row last: whoever sees it finds the others."""


class Workspace:
    """An experiment's files, as a worker sees them.

    Args:
        directory: results folder of the experiment; without a storage every worker sees it under this path.
        resources: name the storage, and how checkpoints are kept.
    """

    def __init__(self, directory: Path, resources: Resources) -> None:
        self._resources = resources
        self.storage = None if resources.storage is None else Storage(resources.storage).below(directory.name)
        self.folder = directory
        if self.storage is not None:
            digest = hashlib.sha256(self.storage.uri.encode()).hexdigest()[:12]
            self.folder = cache_home() / "work" / digest / directory.name
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def place(self) -> Storage:
        """Where all workers find the experiment's files: the storage, or the folder."""
        return self.storage or Storage(self.folder)

    def checkpoints(self, run_id: str) -> "Checkpoints":
        """Of a run; in the storage if there is one, since another machine may have to resume the run."""
        from harness.training.checkpoints import Checkpoints  # torch, which the launcher does not need

        how = self._resources.checkpoints
        return Checkpoints(self.place.below(checkpoint_directory(Path(), run_id).as_posix()), how.keep, how.background)

    def fetch(self, run: Run) -> None:
        """Fetch what the run needs: its teacher's row and weights, as they are in the storage now.

        Raises:
            OSError: the storage does not answer, or the disk is full.
        """
        if self.storage is None:
            return
        paths.run_path(self.folder, run.run_id).unlink(missing_ok=True)  # deleted there, since the run is pending
        if run.teacher_run is None or not run.method.needs_teacher:
            return
        row, weights = (path(self.folder, run.teacher_run) for path in (paths.run_path, weights_path))
        content = self.storage.read(self._name(row))
        if not (weights.is_file() and row.is_file() and row.read_bytes() == content):
            row.unlink(missing_ok=True)
            fetch(self.storage, self.folder, self._name(weights))
            fetch(self.storage, self.folder, self._name(row))

    def publish(self, run_id: str) -> None:
        """Upload a finished run's files, the row last.

        Raises:
            OSError: the storage is full or does not answer.
        """
        if self.storage is None:
            return
        for path in (f(self.folder, run_id) for f in FILES):
            if path.is_file():
                self.storage.write(self._name(path), path.read_bytes())
        if not paths.failure_path(self.folder, run_id).is_file():  # of an earlier attempt
            self.storage.remove(f"failures/{run_id}.txt")

    def offer(self, run_id: str, results: Path) -> None:
        """Upload the files of a run from another results folder, unless the storage has a finished row of it."""
        if self.storage is None or self.status(run_id) == "ok":
            return
        for path in (f(results, run_id) for f in FILES):
            if path.is_file():
                self.storage.write(path.relative_to(results).as_posix(), path.read_bytes())

    def status(self, run_id: str) -> str | None:
        """Status in the run's row where all workers see it; None if there is no row."""
        name = f"runs/{run_id}.parquet"
        try:
            return str(store.parse_row(self.place.read(name), f"{self.place.place}/{name}")["status"])
        except FileNotFoundError:
            return "ok" if self.storage is None and store.packed(self.folder, run_id) else None

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def below(resources: Resources, name: str) -> Resources:
    """Resources for runs in a subfolder of an experiment: in a storage their files are in such a subfolder, too."""
    if resources.storage is None:
        return resources
    return resources.model_copy(update={"storage": Storage(resources.storage).below(name).uri})


def copy_teacher(run_id: str, directory: Path, source: Workspace, folder: Path, target: Workspace) -> None:
    """Copy a teacher's row and weights to where the runs in a subfolder of the experiment look for them.

    Args:
        run_id: the teacher's.
        directory: the experiment's results folder.
        source: the experiment's workspace.
        folder: below `directory`.
        target: the folder's workspace.

    Raises:
        ValueError: it has not been trained, or its training failed.
        OSError: the storage does not answer or lacks the weights, or the disk is full.
    """
    path = paths.run_path(directory, run_id)
    if not path.is_file():
        raise ValueError(f"{path}: the teacher's row is missing; train the teacher first")
    row = store.read_row(path)
    if row["status"] != "ok":
        raise ValueError(
            f"{path}: the teacher {row['status']}: {row['message']}. Fix the cause, then delete this row; the same "
            "command trains the teacher again"
        )
    content, name = path.read_bytes(), path.relative_to(directory).as_posix()
    if target.storage is None:
        if paths.run_path(folder, run_id).is_file() and paths.run_path(folder, run_id).read_bytes() == content:
            return
    elif target.status(run_id) == "ok" and target.storage.read(name) == content:
        return
    weights = weights_path(directory, run_id)
    for each in (weights, path):  # the row last: whoever sees it finds the weights
        name = each.relative_to(directory).as_posix()
        # With a storage the weights are where they were trained, or only in the storage.
        data = each.read_bytes() if each.is_file() or source.storage is None else source.storage.read(name)
        if target.storage is not None:
            target.storage.write(name, data)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / name, data)
