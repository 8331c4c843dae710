"""Where the files of an experiment's results folder are."""

from pathlib import Path


def search_folder(directory: Path) -> Path:
    """Where the search of an experiment is, below its results folder."""
    return directory / "search"


def times_folder(directory: Path) -> Path:
    """Where the step times of an experiment are, below its results folder."""
    return directory / "step_times"


def per_image_path(directory: str | Path, run_id: str) -> Path:
    """Where the matrices of `run_id` are, whether or not they were kept."""
    return Path(directory) / "per_image" / f"{run_id}.parquet"


def checkpoint_directory(directory: Path, run_id: str) -> Path:
    """Where the resumable checkpoints of a run are kept until the run is finished."""
    return directory / "checkpoints" / run_id


def weights_path(directory: Path, run_id: str) -> Path:
    """Where the trained weights of a run are kept."""
    return directory / "weights" / f"{run_id}.safetensors"


def run_path(directory: str | Path, run_id: str) -> Path:
    """Where the row of `run_id` is, whether or not it exists."""
    return Path(directory) / "runs" / f"{run_id}.parquet"
