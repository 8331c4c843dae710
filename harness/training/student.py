"""A trained network as a plain module: images in 0 to 1 to class scores, normalised and evaluated as in its run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.datasets import SOURCES, Data, DataInfo
from harness.datasets.decode import shrunk_size
from harness.datasets.filedata import MEAN, STD
from harness.experiment.recipe import Evaluation
from harness.experiment.spec import Dataset, Run
from harness.models import TapNet, build, load_into, load_state
from harness.results import reuse, store
from harness.results.find import find_finished
from harness.results.paths import weights_path
from harness.training.build import for_inputs, load_data
from harness.training.evaluate import class_scores

BEYOND = 0.5
"""How far values may lie outside 0 to 1: resizing by splines gives a little more; bytes and normalised images, much."""


class Student(nn.Module):
    """A network of a finished run, from images to class scores. `load_student` makes it.

    The run's normalisation and evaluation (scales, flip, windows) are inside. If the run's data is downscaled
    (`short_side`), larger images are downscaled in the same way, and the scores are resized to the image.

    Attributes:
        class_names: K names, in the order of the scores.
        palette: K RGB colours, 0 to 255.
        run_id: of the run.
        network: the network itself, which takes normalised images and gives `harness.Taps`.
        short_side: pixels of the shorter side to which larger images are downscaled; None: not at all.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, info: DataInfo, how: Evaluation, short_side: int | None, run_id: str
    ) -> None:
        super().__init__()
        self.network = network
        self.class_names, self.palette, self.run_id = info.class_names, info.palette, run_id
        self.short_side = short_side
        self._how, self._bgr = how, info.bgr
        for name, values in (("mean", info.mean), ("std", info.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Class scores of images.

        Args:
            image: (N, 3, H, W) of a floating type, RGB, values in 0 to 1.

        Returns:
            (N, K, H, W) logits. If the run evaluates several scales or mirrored images, they are the logarithms of the
            mean probabilities; gradients do not flow through these.

        Raises:
            ValueError: another shape or type, or values that are not in 0 to 1.
        """
        self._check(image)
        size = (image.shape[-2], image.shape[-1])
        seen = shrunk_size(size, self.short_side)
        if seen != size:
            image = F.interpolate(image, seen, mode="area")
        normalised = (image * 255.0 - self.mean) / self.std
        normalised = normalised.flip(1) if self._bgr else normalised
        if self._how.flip or len(self._how.scales) > 1:
            with torch.no_grad():
                scores = class_scores(self.network, normalised, self._how).clamp_min(1e-30).log()
        else:
            scores = class_scores(self.network, normalised, self._how)
        return scores if seen == size else F.interpolate(scores, size, mode="bilinear", align_corners=False)

    def _check(self, image: Tensor) -> None:
        wanted = "a floating tensor (N, 3, H, W), RGB, values in 0 to 1, is needed"
        if not isinstance(image, Tensor):
            raise ValueError(f"image is {type(image).__name__}; {wanted}")
        if image.ndim != 4 or image.shape[1] != 3 or not image.numel():
            raise ValueError(f"image has the shape {tuple(image.shape)}; {wanted}")
        if not image.is_floating_point():
            raise ValueError(f"image is of {image.dtype}; {wanted}: image.float() / 255")
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            return
        low, high = (float(value) for value in image.detach().aminmax())
        if not (low >= -BEYOND and high <= 1 + BEYOND):  # not a number is neither
            raise ValueError(f"image has values from {low:g} to {high:g}; {wanted}; the network normalises it itself")


def load_student(run: str | Mapping[str, Any], results: str | Path = "results") -> Student:
    """The trained network of a finished run, as a plain `torch.nn.Module` from images to class scores, in eval mode.

    Args:
        run: a run_id or its beginning, `method/seed` (e.g. "kd/0"; a teacher's is "teacher/0"), or a row of the results
            as a mapping with its `run_id`.
        results: folder of all results, or the results folder of one experiment.

    Returns:
        A module on the CPU from images (N, 3, H, W), RGB in 0 to 1, to logits (N, K, H, W). Where the run's data is not
        downscaled, the class with the highest score is what `sstkd-bench predict` writes.

    Raises:
        ValueError: no such run, or several; it did not finish; its weights are missing or are not the row's; or the
            source of a network or method from outside has changed.

    Example:
        >>> import harness
        >>> student = harness.load_student("kd/0", "results/quickstart")  # doctest: +SKIP
        >>> image = torch.rand(1, 3, 128, 128)  # doctest: +SKIP
        >>> student(image).argmax(1).shape  # doctest: +SKIP
        torch.Size([1, 128, 128])
    """
    directory, row = found_run(run, Path(results))
    return student_of(directory, row)


def student_of(directory: Path, row: Mapping[str, Any]) -> Student:
    """As `load_student`, of a row in an experiment's results folder."""
    require_current(directory, row, None)
    spec = store.run_of(directory, row)
    known = Data(info_of(spec.data, row), (), (), ())  # without its images
    info = for_inputs(known, spec.train.normalize, spec.network).info
    network = trained_network(directory, row, spec, info.num_classes)
    return Student(network, info, spec.train.evaluation, spec.data.parameters.get("short_side"), row["run_id"]).eval()


def found_run(run: str | Mapping[str, Any], results: Path) -> tuple[Path, dict[str, Any]]:
    """The results folder and the complete row of a finished run, which is named as for `load_student`."""
    if not isinstance(run, Mapping):
        return find_finished(results, run)
    if not isinstance(run.get("run_id"), str):
        raise ValueError(f"the row has no run_id; it has: {', '.join(map(str, list(run)[:20]))}")
    own = results / str(run.get("experiment", ""))
    return find_finished(own if own.is_dir() else results, run["run_id"])


def require_current(directory: Path, row: Mapping[str, Any], data_hash: str | None) -> None:
    """The run is judged as everywhere: by its data, method, teacher and weights as they are now.

    Raises:
        ValueError: they are not today's.
    """
    ids = [run_id for run_id in (row["run_id"], row["teacher_run_id"]) if run_id is not None]
    found = reuse.standings(directory, ids, lambda: data_hash, weights=("teacher", "student"))
    file = f"experiments/{row['experiment']}.yaml"
    reuse.require_current({row["run_id"]: found[row["run_id"]]}, directory, file, "Where the data has moved: --root. ")


def trained_network(directory: Path, row: Mapping[str, Any], run: Run, num_classes: int) -> TapNet:
    """The network of a finished run with its trained weights, in eval mode on the CPU.

    Raises:
        ValueError: it cannot be built, or its weights are missing or are not the row's.
    """
    network = build(run.network.model_copy(update={"encoder_weights": None}), num_classes, 0)
    path = weights_path(directory, row["run_id"])
    load_into(network, load_state(path, row["weights_sha256"]), str(path))
    return network.eval()


def info_of(data: Dataset, row: Mapping[str, Any]) -> DataInfo:
    """What a run knows of its data, without the data where it is in files.

    Raises:
        ValueError: the data cannot be made or read.
    """
    known = row["num_classes"] and row["class_names"] and row["palette"]
    if data.name not in SOURCES or not known:
        return load_data(data).info
    return DataInfo(
        name=data.name,
        num_classes=row["num_classes"],
        class_names=tuple(row["class_names"]),
        palette=tuple((colour[0], colour[1], colour[2]) for colour in row["palette"]),
        mean=MEAN,
        std=STD,
        content_hash=row["data_hash"] or "",
        note="",
        ignore_index=row["ignore_index"],
    )
