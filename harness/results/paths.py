"""Paths of the files in an experiment's results folder."""

from pathlib import Path


def search_folder(directory: Path) -> Path:
    """The folder of the experiment's search."""
    return directory / "search"


def times_folder(directory: Path) -> Path:
    """The folder of the experiment's step times."""
    return directory / "step_times"


def per_image_path(directory: str | Path, run_id: str) -> Path:
    """The file of a run's per-image confusion matrices, whether or not it exists."""
    return Path(directory) / "per_image" / f"{run_id}.parquet"


def checkpoint_directory(directory: Path, run_id: str) -> Path:
    """The folder of a run's checkpoints, which exist until the run is finished."""
    return directory / "checkpoints" / run_id


def weights_path(directory: Path, run_id: str) -> Path:
    """The file of a run's trained weights."""
    return directory / "weights" / f"{run_id}.safetensors"


def run_path(directory: str | Path, run_id: str) -> Path:
    """The file of a run's row, whether or not it exists."""
    return Path(directory) / "runs" / f"{run_id}.parquet"


def failure_path(directory: str | Path, run_id: str) -> Path:
    """The file with the traceback of a run that failed, whether or not it exists."""
    return Path(directory) / "failures" / f"{run_id}.txt"


def status_path(directory: str | Path) -> Path:
    """The file in which a running command says how far it is, whether or not it exists."""
    return Path(directory) / "status.json"
