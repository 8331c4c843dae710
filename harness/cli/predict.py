"""The command `sstkd-bench predict`: a run's predictions as PNGs."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import Directory, RunId, answering


def predict(
    directory: Directory,
    run_id: RunId,
    to: Annotated[Path, typer.Option("--to", help="Folder for the PNGs.")],
    split: Annotated[str, typer.Option(help="val, dev, train, or test (images without labels).")] = "val",
    root: Annotated[
        Path | None, typer.Option("--root", help="The dataset's folder, if it has moved since the run.")
    ] = None,
) -> None:
    """Write a run's predictions as PNGs, in the format of the Cityscapes, VOC or ADE20K server, else class indices."""
    with answering():
        if split not in ("val", "dev", "train", "test"):
            raise ValueError(f"--split {split}: allowed are val, dev, train, test")
        from harness.training.predict import write_predictions

        count = write_predictions(directory, run_id, split, to, root)
        typer.echo(f"{to}: {count} predictions")
