"""A finished run as an export needs it, and what is said of a file beside it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.datasets import Data, DataInfo
from harness.experiment.spec import Run
from harness.models import TapNet
from harness.models.library import library_of
from harness.results import store
from harness.training.build import for_inputs
from harness.training.student import info_of, require_current, trained_network


@dataclass(frozen=True)
class Source:
    """A trained network and where it comes from.

    Attributes:
        directory: results folder of the experiment.
        row: the complete row of the run.
        run: its specification.
        network: with its trained weights, in eval mode on the CPU.
        info: the data as the network sees it.
    """

    directory: Path
    row: Mapping[str, Any]
    run: Run
    network: TapNet
    info: DataInfo

    @classmethod
    def of(cls, directory: Path, row: Mapping[str, Any]) -> "Source":
        """Of a finished run.

        Raises:
            ValueError: its weights are missing or not the row's, or what it was made from has changed.
        """
        require_current(directory, row, None)
        run = store.run_of(directory, row)
        known = Data(info_of(run.data, row), (), (), ())  # without its images
        info = for_inputs(known, run.train.normalize, run.network).info
        return cls(directory, row, run, trained_network(directory, row, run, info.num_classes), info)

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
    """

    size_hw: tuple[int, int] | None = None
    batch: int | None = None
    preprocessing: bool = False
    calibration: int | None = None
