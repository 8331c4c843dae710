"""The columns of a finished run's row that training measures."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from harness.datasets import Data
from harness.distillers import Distiller
from harness.experiment.spec import Run
from harness.metrics import miou
from harness.models import TapNet, state_sha256
from harness.results.paths import per_image_path
from harness.results.per_image import write_per_image
from harness.training import proportions
from harness.training.batches import evaluation_batches
from harness.training.build import network_cost
from harness.training.cost import StepClock, device_name, latency_ms, parameters
from harness.training.evaluate import Counted, predict
from harness.training.log import Log
from harness.training.ranks import Ranks

SAMPLE_IMAGES = 4


def run_facts(run: Run, student: TapNet, distiller: Distiller, data: Data, device: torch.device) -> dict[str, Any]:
    """Columns that are known before the first step."""
    info = data.info
    height, width = run.train.augment.crop_hw or data.train[0][0].shape[:2]
    return {
        "student_init_sha256": state_sha256(student.state_dict()),
        "data_hash": info.content_hash,
        "num_classes": info.num_classes,
        "class_names": list(info.class_names),
        "palette": [list(colour) for colour in info.palette],
        "ignore_index": info.ignore_index,
        "floor_dev_miou": info.floor_dev_miou,
        "floor_val_miou": info.floor_val_miou,
        "taps": [*student.info().stages, "decoder", "logits"],
        "student_parameters": parameters(student),
        "extra_parameters": parameters(distiller),
        "student_macs": network_cost(run.network, info.num_classes, height, width)[1],
        "device": device_name(device),
    }


def measured(run: Run, log: Log, clock: StepClock, counted: Mapping[str, Counted]) -> dict[str, Any]:
    """Columns that are known after the last step."""
    best = max(log.curve, key=lambda point: point["dev_miou"])
    columns: dict[str, Any] = {}
    for name, counts in counted.items():
        columns[f"{name}_confusion"] = counts.confusion.ravel().tolist()
        columns[f"{name}_miou"] = miou(counts.confusion, run.protocol.absent_policy)
        if counts.boundary is not None:
            columns[f"{name}_boundary_confusion"] = counts.boundary.ravel().tolist()
    # A method's caveats are told once for all of its settings, so this one names its own.
    setting = f" ({run.method.label})" if run.method.label != run.method.name else ""
    caveats = [run.method.caveat, (text := proportions.of_log(log.losses)) and text + setting]
    return columns | {
        "caveat": "; ".join(filter(None, caveats)) or None,
        "best_dev_miou": best["dev_miou"],
        "best_dev_step": int(best["step"]),
        "curve": log.curve,
        "losses": log.losses,
        "gradients": log.gradients or None,
        "step_ms": clock.percentile(50),
        "step_ms_p90": clock.percentile(90),
        "data_ms": float(np.median(log.data_ms)) if log.data_ms else None,
        "train_seconds": log.train_seconds,
        "eval_seconds": log.eval_seconds,
        "together": log.together,
        "shared_seconds": log.shared_seconds,
        "resumed": log.resumed,
        "worker_history": log.workers if len(log.workers) > 1 else None,
    }


def kept(student: TapNet, data: Data, run: Run, ranks: Ranks, val: Counted, directory: Path) -> dict[str, Any]:
    """Kept for later analysis: predictions, confusion matrices of single val images, the network's latency."""
    whole = run.role == "teacher" and data.info.shareable
    return _images(run, data, val, directory) | {
        "samples": _samples(student, data, run, ranks, whole),
        "student_latency_ms": _latency(student, data, run, ranks),
    }


def _latency(student: TapNet, data: Data, run: Run, ranks: Ranks) -> float | None:
    """Milliseconds to predict one dev image as in evaluation, but with one scale and no flip."""
    if not len(data.dev):
        return None
    (batch,) = evaluation_batches(data.dev, data.info, ranks, 1, [0])
    how = run.train.evaluation.model_copy(update={"scales": (1.0,), "flip": False})
    return latency_ms(lambda: predict(student, batch.image, how), batch.image.device)


def _images(run: Run, data: Data, val: Counted, directory: Path) -> dict[str, Any]:
    """Write the matrices of single val images to their file, if the run keeps them; the column with its SHA-256."""
    if val.images is None:
        return {}
    path, images, info = per_image_path(directory, run.run_id), len(data.val), data.info
    digest = write_per_image(path, val.images, images, run.run_id, info.num_classes, info.content_hash)
    return {"per_image_sha256": digest}


def _samples(student: TapNet, data: Data, run: Run, ranks: Ranks, with_images: bool) -> list[dict[str, Any]]:
    """Predictions on the first dev images as PNG; optionally with images and labels (once per teacher)."""
    samples = []
    for index in range(min(SAMPLE_IMAGES, len(data.dev))):
        image, label = data.dev[index]
        (batch,) = evaluation_batches(data.dev, data.info, ranks, 1, [index])
        prediction = predict(student, batch.image, run.train.evaluation)[0].byte().cpu().numpy()
        samples.append(
            {
                "index": index,
                "image": _png(image) if with_images else None,
                "label": _png(label) if with_images else None,
                "prediction": _png(prediction),
            }
        )
    return samples


def _png(array: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
