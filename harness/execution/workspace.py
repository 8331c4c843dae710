"""Where a worker keeps an experiment's files: the results folder itself, or a folder of its machine beside a storage.

With a storage, what a run needs is fetched before it and what it leaves is put there after it, its row last: a row that
can be seen belongs to a run of which everything is there.
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


class Home:
    """An experiment's files, as a worker sees them.

    Args:
        experiment: the results folder of the experiment; without a storage every worker sees it under this path.
        resources: name the storage, and how checkpoints are kept.
    """

    def __init__(self, experiment: Path, resources: Resources) -> None:
        self._resources = resources
        self.storage = None if resources.storage is None else Storage(resources.storage).below(experiment.name)
        self.folder = experiment
        if self.storage is not None:
            digest = hashlib.sha256(self.storage.uri.encode()).hexdigest()[:12]
            self.folder = cache_home() / "work" / digest / experiment.name
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def place(self) -> Storage:
        """Where all workers find the experiment's files."""
        return self.storage or Storage(self.folder)

    def checkpoints(self, run_id: str) -> "Checkpoints":
        """Of a run; at the storage if there is one, since another machine may have to go on with it."""
        from harness.training.checkpoints import Checkpoints  # torch, which the launcher does not need

        how = self._resources.checkpoints
        return Checkpoints(self.place.below(checkpoint_directory(Path(), run_id).as_posix()), how.keep, how.background)

    def fetch(self, run: Run) -> None:
        """Bring what the run needs: its teacher's row and weights, as they are at the storage now.

        Raises:
            OSError: the storage does not answer, or the disk is full.
        """
        if self.storage is None:
            return
        paths.run_path(self.folder, run.run_id).unlink(missing_ok=True)  # deleted there since, or it would not run
        if run.teacher_run is None or not run.method.needs_teacher:
            return
        row, weights = (path(self.folder, run.teacher_run) for path in (paths.run_path, weights_path))
        content = self.storage.read(self._name(row))
        if not (weights.is_file() and row.is_file() and row.read_bytes() == content):
            row.unlink(missing_ok=True)
            fetch(self.storage, self.folder, self._name(weights))
            fetch(self.storage, self.folder, self._name(row))

    def publish(self, run_id: str) -> None:
        """Put a finished run's files to the storage, the row last.

        Raises:
            OSError: the storage is full or does not answer.
        """
        if self.storage is None:
            return
        for path in (f(self.folder, run_id) for f in (weights_path, per_image_path, paths.run_path)):
            if path.is_file():
                self.storage.write(self._name(path), path.read_bytes())

    def offer(self, run_id: str, results: Path) -> None:
        """Put what another results folder has of a run to the storage, where that has no finished row of it."""
        if self.storage is None or self.status(run_id) == "ok":
            return
        for path in (f(results, run_id) for f in (weights_path, per_image_path, paths.run_path)):
            if path.is_file():
                self.storage.write(path.relative_to(results).as_posix(), path.read_bytes())

    def status(self, run_id: str) -> str | None:
        """Of the run's row where all workers see it; None if there is no row."""
        name = f"runs/{run_id}.parquet"
        try:
            return str(store.parse_row(self.place.read(name), f"{self.place.place}/{name}")["status"])
        except FileNotFoundError:
            return "ok" if self.storage is None and store.packed(self.folder, run_id) else None

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def below(resources: Resources, name: str) -> Resources:
    """The resources of runs in a folder of an experiment: in a storage their files are below the experiment's, too."""
    if resources.storage is None:
        return resources
    return resources.model_copy(update={"storage": Storage(resources.storage).below(name).uri})


def lend(run_id: str, directory: Path, source: Home, folder: Path, home: Home) -> None:
    """Put a teacher's row and weights where runs in a folder of the experiment look for them.

    Args:
        run_id: the teacher's.
        directory: the experiment's results folder.
        source: the experiment's home.
        folder: below `directory`.
        home: the folder's.

    Raises:
        ValueError: it has not been trained, or could not be.
        OSError: the storage does not answer or has no weights of it, or the disk is full.
    """
    path = paths.run_path(directory, run_id)
    if not path.is_file():
        raise ValueError(f"{path}: the teacher's row is missing; it is trained before them")
    row = store.read_row(path)
    if row["status"] != "ok":
        raise ValueError(
            f"{path}: the teacher {row['status']}: {row['message']}. After mending it delete this row; the same "
            "command trains the teacher again"
        )
    content, name = path.read_bytes(), path.relative_to(directory).as_posix()
    if home.storage is None:
        if paths.run_path(folder, run_id).is_file() and paths.run_path(folder, run_id).read_bytes() == content:
            return
    elif home.status(run_id) == "ok" and home.storage.read(name) == content:
        return
    weights = weights_path(directory, run_id)
    for each in (weights, path):  # the row last: who sees it finds the weights
        name = each.relative_to(directory).as_posix()
        # With a storage the weights are where they were trained, or only there.
        data = each.read_bytes() if each.is_file() or source.storage is None else source.storage.read(name)
        if home.storage is not None:
            home.storage.write(name, data)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomic(folder / name, data)
