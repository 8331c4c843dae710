"""Rows that look like those of a real experiment, made up from seeded noise: for tests of what reads rows."""

import io
import json
import pickle
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from harness.results.exports import SCHEMA as EXPORT

CLASSES = ["brick", "grass", "gravel", "moon", "tissue", "hubble"]
PALETTE = [[178, 76, 58], [86, 160, 72], [146, 146, 152], [214, 202, 160], [190, 92, 160], [52, 74, 140]]
LEVEL = {"none": 0.56, "kd": 0.58, "cwd": 0.60, "sstkd": 0.63, "teacher": 0.72}
with_opencv_5 = pytest.mark.skipif(
    int(cv2.__version__.partition(".")[0]) < 5,
    reason="texmosaic has other pixels before OpenCV 5, and the shipped rows its own",
)
"""Mark of tests that compare shipped rows with the data of today."""
START = datetime(2026, 11, 23, 9, 0, tzinfo=timezone.utc)


def png(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


def confusion(miou: float, rng: np.random.Generator, classes: int = 6) -> np.ndarray:
    """(K, K) counts whose mean IoU is near `miou`, classes uneven."""
    right = np.clip(2 * miou / (1 + miou) + rng.normal(0, 0.06, classes), 0.05, 0.98)
    out = np.zeros((classes, classes), dtype=np.int64)
    for k, share in enumerate(right):
        other = rng.dirichlet(np.ones(classes - 1))
        out[k] = np.insert(other * (1 - share), k, share) * rng.integers(20_000, 60_000)
    return out


def mosaic(rng: np.random.Generator, size: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """An image and its label map with a void border between the patches."""
    seeds, y, x = rng.uniform(0, size, (9, 2)), *np.mgrid[:size, :size]
    distance = np.hypot(y[..., None] - seeds[:, 0], x[..., None] - seeds[:, 1])
    nearest = np.sort(distance, axis=-1)
    label = (distance.argmin(-1) * 5 % 6).astype(np.uint8)
    waves = np.sin(x * (0.3 + label * 0.25) + y * 0.2 * (label % 3)) * 60 + rng.normal(0, 22, label.shape) + 128
    label[nearest[..., 1] - nearest[..., 0] < 1.5] = 255
    return np.clip(waves, 0, 255), label


@cache
def _scene(index: int) -> tuple[np.ndarray, bytes, bytes]:
    """The label map; image and label map as PNG."""
    image, label = mosaic(np.random.default_rng(100 + index))
    return label, png(image), png(label)


def samples(level: float, rng: np.random.Generator, whole: bool) -> list[dict[str, Any]]:
    out = []
    for index in range(3):
        label, image_png, label_png = _scene(index)
        guess = np.where(label == 255, 0, label)
        blocks = np.kron(rng.random((12, 12)), np.ones((8, 8))) > level
        guess = np.where(blocks, (guess + rng.integers(1, 6)) % 6, guess)
        out.append(
            {
                "index": index,
                "image": image_png if whole else None,
                "label": label_png if whole else None,
                "prediction": png(guess),
            }
        )
    return out


def make_row(method: str = "kd", seed: int = 0, status: str = "ok", role: str = "student", **changes: Any) -> dict:
    """A complete row; `changes` replace columns."""
    row: dict[str, Any] = pickle.loads(_drawn(method, seed, status, role, "samples" not in changes))
    if changes.get("num_classes"):
        classes = range(changes["num_classes"])
        row |= {"class_names": [f"class {k}" for k in classes], "palette": [[k, k, k] for k in classes]}
    row |= changes
    # What a test says of dev holds for val too, unless it says more.
    same = {"val_miou": "dev_miou", "floor_val_miou": "floor_dev_miou", "val_confusion": "dev_confusion"}
    return {val: row.get(dev) for val, dev in same.items()} | row


@cache
def _drawn(method: str, seed: int, status: str, role: str, with_samples: bool) -> bytes:
    """The row, pickled: that is copied faster than it is drawn, or than its parts are copied."""
    teacher = role == "teacher"
    rng = np.random.default_rng([seed, sum(map(ord, method)), teacher])
    level = LEVEL["teacher"] if teacher else LEVEL.get(method, 0.57)
    # Runs of one seed share their luck, which is what pairing is for.
    counts = confusion(level + rng.normal(0, 0.004), np.random.default_rng(seed))
    hit = np.diag(counts)
    miou = float(np.mean(hit / (counts.sum(0) + counts.sum(1) - hit)))
    steps = 600 if teacher else 300
    at = np.arange(50, steps + 1, 50)
    curve = 0.11 + (miou - 0.11) * (1 - np.exp(-at / 90)) / (1 - np.exp(-steps / 90)) + rng.normal(0, 0.006, at.size)
    curve[-1] = miou
    ok = status == "ok"
    parameters = {"kd": {"temperature": 4.0, "weight": 1.0}, "cwd": {"tau": 4.0}, "sstkd": {"levels": 3}}
    began = START + timedelta(minutes=seed)
    terms = {"task": 0.62} if method == "none" else {"task": 0.61, method: 0.18}
    row: dict[str, Any] = {
        "run_id": f"{'t' if teacher else method}-{seed}-0123456789ab",
        "experiment": "quickstart",
        "status": status,
        "message": "" if ok else "step 120: loss term 'cwd' is nan",
        "role": role,
        "method": "none" if teacher else method,
        "method_parameters": json.dumps({} if teacher else parameters.get(method, {})),
        "seed": seed,
        "ruleset": "published",
        "protocol_version": "1.0",
        "budget_unit": "steps",
        "budget_amount": float(steps),
        "steps": steps,
        "pair": "lite2-to-tiny",
        "teacher_network": json.dumps({"architecture": "fpn", "encoder": "tu-efficientnet_lite2"}),
        "student_network": json.dumps({"architecture": "fpn", "encoder": "tu-mobilenetv3_small_050"}),
        "teacher_run_id": None if teacher else "t-0-0123456789ab",
        "teacher_sha256": None if teacher else "ab" * 32,
        "student_init_sha256": f"{seed:064x}",
        "dataset": "texmosaic",
        "dataset_parameters": json.dumps({"size": 96}),
        "data_hash": "cd" * 32,
        "num_classes": 6,
        "class_names": CLASSES,
        "palette": PALETTE,
        "ignore_index": 255,
        "floor_dev_miou": 0.1103,
        "absent_policy": "skip",
        "recipe": json.dumps({"steps": steps, "batch_size": 8, "optimizer": {"name": "adamw", "lr": 0.002}}),
        "taps": ["stage1", "stage2", "decoder", "logits"],
        "overrides": [],
        "device": "cpu",
        "workers": 1,
        "threads": 1,
        "precision": "fp32",
        "resumed": 0,
        "code_version": "0.1.0",
        "versions": {"python": "3.11.7", "torch": "2.14.1", "ray": "2.60.0", "platform": "Linux-x86_64"},
        "spec": json.dumps({"method": method, "seed": seed, "train": {"steps": steps}}),
        "started_at": began,
        "finished_at": began + timedelta(seconds=55),
    }
    if ok:
        row |= {
            "dev_confusion": counts.ravel().tolist(),
            "dev_miou": miou,
            "best_dev_miou": float(curve.max()),
            "best_dev_step": int(at[curve.argmax()]),
            "curve": [{"step": int(s), "dev_miou": float(v)} for s, v in zip(at, curve, strict=True)],
            "losses": [{"step": int(s), "lr": 0.002 * (1 - (s - 1) / steps) ** 0.9, "terms": terms} for s in at],
            "step_ms": 92.0 + 20 * len(terms) + 3 * rng.random(),
            "step_ms_p90": 131.0,
            "data_ms": 4.1,
            "train_seconds": 38.0,
            "eval_seconds": 9.0,
            "wall_seconds": 55.0,
            "peak_memory_mb": 610.0 + 40 * len(terms) + 5 * rng.random(),
            "student_parameters": 45_210,
            "extra_parameters": 0 if method in ("none", "kd") else 3_072,
            "student_macs": 31_000_000,
            "student_latency_ms": 7.5,
            "samples": samples(level, rng, whole=teacher) if with_samples else None,
        }
    return pickle.dumps(row)


def make_experiment(methods: tuple[str, ...] = ("none", "kd", "cwd", "sstkd"), seeds: int = 3) -> list[dict]:
    """A teacher and every method with every seed, all ok."""
    return [make_row(role="teacher"), *(make_row(m, s) for m in methods for s in range(seeds))]


def make_settings(experiment: Any, miou: Callable[[Any], float], spread: float = 0.01) -> list[dict]:
    """Rows, without teachers, of all students of an experiment with one pair.

    Args:
        experiment: a `harness.Experiment`.
        miou: mIoU of a method, a `harness.experiment.method.Method`, in [0, 1].
        spread: standard deviation over seeds; half of it is common to all methods, which is what pairing is for.
    """
    found = []
    for seed in experiment.seeds:
        luck = np.random.default_rng(seed).normal(0, spread / 2)
        for place, method in enumerate(experiment.methods):
            value = float(
                np.clip(miou(method) + luck + np.random.default_rng([seed, place]).normal(0, spread / 2), 0, 1)
            )
            found.append(
                make_row(
                    method.name, seed, run_id=f"{place}-{seed}", experiment=experiment.name, samples=None,
                    method_parameters=json.dumps(method.parameters), dev_miou=value, best_dev_miou=value,
                )
            )  # fmt: skip
    return found


def make_longer(rows: list[dict], steps: int = 600) -> list[dict]:
    """Rows of `none at equal seconds`, a little better than those of `none` among `rows`."""
    return [
        row | {"run_id": f"longer-{row['seed']}", "control": "equal seconds", "steps": steps,
               "recipe": json.dumps(json.loads(row["recipe"]) | {"steps": steps}),
               "dev_miou": row["dev_miou"] + 0.01, "val_miou": row["val_miou"] + 0.01}
        for row in rows if row["method"] == "none"
    ]  # fmt: skip


def make_export(run: dict, **changes: Any) -> dict:
    """The row of an int8 export of a run in ONNX, without `export_id`; `changes` replace columns."""
    own = run["val_miou"]
    return (
        dict.fromkeys(name for name in EXPORT.names if name != "export_id")
        | {
            "run_id": run["run_id"],
            "weights_sha256": run["weights_sha256"],
            "target": "onnx",
            "size_hw": None,
            "batch": None,
            "preprocessing": False,
            "calibration": 64,
            "every_layer": False,
            "sha256": "ef" * 32,
            "size_bytes": 2**18,
            "versions": json.dumps({"onnxruntime": "1.23.0"}),
            "code_version": "0.2.0",
            "exported_at": START,
            "split": "val",
            "images": 200,
            "split_images": 200,
            "miou": own,
            "student_miou": own,
            "agreement": 0.98,
            "largest_difference": None,
            "device": "CPU of one kind",
            "threads": 1,
            "latency_hw": [96, 96],
            "latency_ms": 1.5,
            "latency_ms_p90": 1.6,
            "latency_calls": 100,
            "student_latency_ms": 8.5,
            "device_agreement": None,
        }
        | changes
    )
