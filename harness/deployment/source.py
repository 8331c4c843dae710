"""A finished run as an export needs it, and what is said of a file beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from harness.datasets import Data, DataInfo
from harness.experiment.spec import Run
from harness.models import TapNet
from harness.models.library import library_of
from harness.results import store
from harness.training.build import for_inputs, load_data
from harness.training.student import require_current, trained_network

LARGEST_BATCH, SMALLEST_SIDE, LARGEST_SIDE = 1024, 64, 16384


@dataclass(frozen=True)
class Source:
    """A trained network and where it comes from.

    Attributes:
        directory: results folder of the experiment.
        row: the complete row of the run.
        run: its specification.
        network: with its trained weights, in eval mode on the CPU.
        data: the run's dataset, normalised for the network.
    """

    directory: Path
    row: Mapping[str, Any]
    run: Run
    network: TapNet
    data: Data

    @classmethod
    def of(cls, directory: Path, row: Mapping[str, Any], root: Path | None = None) -> "Source":
        """Of a finished run, whose data may have moved to `root`.

        Raises:
            ValueError: its weights are missing or not the row's, or what it was made from has changed.
        """
        run = store.run_of(directory, row)
        place = str(root.absolute()) if root is not None else run.data.root
        raw = load_data(run.data.model_copy(update={"root": place}))
        require_current(directory, row, raw.info.content_hash)
        data = for_inputs(raw, run.train.normalize, run.network)
        return cls(directory, row, run, trained_network(directory, row, run, data.info.num_classes), data)

    @property
    def info(self) -> DataInfo:
        """The data as the network sees it."""
        return self.data.info

    @cached_property
    def smallest_side(self) -> int:
        """The smallest side of an image, from 64, that a graph of any size takes: one that the network takes."""
        network, multiple = self.network, self.network.multiple
        small, sure = -(-SMALLEST_SIDE // multiple) * multiple, network.dry_image().shape[-1]
        try:
            with torch.no_grad():
                network(torch.zeros(1, 3, small, small))
        except (RuntimeError, ValueError, AssertionError):  # PAN pools its deepest map three times
            return sure
        return small

    def described(self) -> dict[str, Any]:
        """What whoever loads the weights has to know, as JSON values."""
        info, network = self.info, self.run.network
        return {
            "run_id": self.row["run_id"],
            "experiment": self.row["experiment"],
            "method": self.row["method"],
            "library": library_of(network),
            "architecture": network.architecture,
            "encoder": network.encoder,
            "parameters": network.parameters,
            "multiple": self.network.multiple,
            "mean": list(info.mean),
            "std": list(info.std),
            "channels": "BGR" if info.bgr else "RGB",
            "classes": list(info.class_names),
            "palette": [list(colour) for colour in info.palette],
            "short_side": self.run.data.parameters.get("short_side"),  # to which larger images are shrunk first
            "evaluation": self.run.train.evaluation.model_dump(mode="json"),
            "weights_sha256": self.row["weights_sha256"],
            "licence": "none stated: that of the data, the encoder's weights and the library have to be looked at",
        }


@dataclass(frozen=True)
class Form:
    """What a graph takes and gives.

    Attributes:
        size_hw: height and width of the images; None: any whose sides are multiples of the network's `multiple`.
        batch: images at a time; None: any number.
        preprocessing: RGB bytes (N, H, W, 3) to labels (N, H, W), in place of normalised images to class scores.
        calibration: number of train images by which it is quantised to int8; None: it is not.
        every_layer: whether its first and last layers are quantised too.
    """

    size_hw: tuple[int, int] | None = None
    batch: int | None = None
    preprocessing: bool = False
    calibration: int | None = None
    every_layer: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError: a number is out of range."""
        if self.size_hw is not None:
            object.__setattr__(self, "size_hw", tuple(self.size_hw))
        size = self.size_hw or (1, 1)
        if len(size) != 2 or not all(isinstance(side, int) and 0 < side <= LARGEST_SIDE for side in size):
            raise ValueError(f"--size {size}: height and width are needed, from 1 to {LARGEST_SIDE}, e.g. 512x1024")
        if self.batch is not None and not 0 < self.batch <= LARGEST_BATCH:
            raise ValueError(f"--batch {self.batch}: has to be from 1 to {LARGEST_BATCH}")
        if self.calibration is not None and self.calibration < 1:
            raise ValueError(f"--calibrate {self.calibration}: has to be 1 or more")
        if self.every_layer and self.calibration is None:
            raise ValueError("--every-layer: belongs to --int8; give both or neither")
