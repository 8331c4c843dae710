"""The command `sstkd-bench predict`: a run's predictions as PNGs, on images of one's own or on its dataset."""

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.common import NAMING, InDirectory, Moved, ResultsOf, answering, place_and_name

SPLITS = ("val", "dev", "train", "test")


def predict(
    run: Annotated[str, typer.Argument(metavar="RUN|DIRECTORY", help=f"{NAMING}.")],
    to: Annotated[Path, typer.Option("--to", help="Folder for the PNGs.")],
    in_directory: InDirectory = None,
    images: Annotated[
        Path | None, typer.Option("--images", help="Folder of images, or one image, of any size and without labels.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Of the run's dataset: val (default), dev, train, or test (without labels).")
    ] = None,
    root: Moved = None,
    results: ResultsOf = None,
) -> None:
    """Write a run's predictions as PNGs.

    With --images DIR: masks with the classes' colours as palette, overlays, and classes.yaml. Without it a split of the
    run's dataset, in the format of the Cityscapes, VOC or ADE20K server, else class indices.
    """
    with answering():
        if split not in (None, *SPLITS):
            raise ValueError(f"--split {split}: allowed are {', '.join(SPLITS)}")
        given = [name for name, value in (("--split", split), ("--root", root)) if value is not None]
        if images is not None and given:
            raise ValueError(f"--images and {' and '.join(given)}: images of your own, or the run's dataset; give one")
        where, name = place_and_name(run, in_directory, results)
        if images is None:
            from harness.training.predict import write_predictions

            count = write_predictions(where, name, split or "val", to, root)
        else:
            from harness.results.find import find_finished
            from harness.training.predict_images import write_image_predictions

            directory, row = find_finished(where, name)
            count = write_image_predictions(directory, row, images, to)
        typer.echo(f"{to}: {count} predictions")
