"""What the sections of `prove` share: sizes, experiments, and rows of runs that are executed here."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from harness.experiment.load import load
from harness.experiment.plan import outline
from harness.experiment.spec import Run
from harness.results import paths, store
from harness.training.execute import execute
from harness.training.runtime import Runtime

Rows = list[dict[str, Any]]
SIX = ("none", "kd", "cwd", "skd", "ifvd", "sstkd")
LARGE: dict[str, Any] = {
    "network": "pspnet-papers",
    "encoders": ("tu-resnet101", "tu-resnet18"),
    "side": 512,
    "batch": 8,
    "steps": 12,
    "train": 32,
    "methods": (*SIX, "cirkd", "mgd", "af-dcd", "dist"),
    "quickstart": 200,
    "picture": 512,
}
TOY: dict[str, Any] = LARGE | {
    "network": "fpn",
    "encoders": ("tu-mobilenetv3_small_050", "tu-mobilenetv3_small_050"),
    "side": 64,
    "batch": 2,
    "steps": 3,
    "train": 4,
    "methods": ("none", "kd", "sstkd"),
    "quickstart": 3,
    "picture": 64,
}


class NotHere(Exception):
    """A section that this device does not have."""


@dataclass
class Proof:
    """What the sections share.

    Attributes:
        device: where.
        size: `LARGE` or `TOY`.
        folder: of experiments and rows.
        until: on the clock `time.monotonic`.
        results: by section, its rows or why there are none.
    """

    device: torch.device
    size: dict[str, Any]
    folder: Path
    until: float
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        """Whether it is a CUDA device."""
        return self.device.type == "cuda"

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those that the device has."""
        return ("fp32", "tf32", "bf16", "fp16") if self.on_gpu else ("fp32", "bf16")

    def runs(self, name: str, methods: Collection[str], *overrides: str, small: bool = False) -> list[Run]:
        """The teacher, trained for one step, and a student of each method.

        Args:
            name: of a folder; experiments in one folder share what is equal.
            methods: by name, with their defaults.
            overrides: of the file.
            small: two tiny networks instead of the pair.
        """
        size = TOY if small else self.size
        teacher, student = ({"architecture": size["network"], "encoder": encoder} for encoder in size["encoders"])
        data = {"size": size["side"], "train": size["train"], "dev": 2, "val": 2}
        file = self.folder / f"{name}.yaml"
        text = {
            "name": name,
            "data": {"name": "texmosaic", "parameters": data},
            "pairs": [{"name": "pair", "teacher": teacher | {"steps": 1}, "student": student}],
            "train": {
                "steps": size["steps"],
                "batch_size": size["batch"],
                "optimizer": {"name": "adamw", "lr": 0.0005},
                "schedule": {"warmup_steps": 0},
                "channels_last": True,
            },
            "seeds": [0],
            "methods": ["none", *(method for method in methods if method != "none")],
            "controls": False,
        }
        file.write_text(yaml.safe_dump(text))
        teacher_run, *students = outline(load(file, overrides))
        return [teacher_run, *(run for run in students if run.method.name in methods)]

    def done(self, runs: Sequence[Run], where: str, device: torch.device | None = None, **options: Any) -> Rows:
        """The rows of runs, executed one after another where they have none; a failure is an error here."""
        directory, found = self.folder / where, []
        for run in runs:
            if not paths.run_path(directory, run.run_id).exists():
                checkpoints = paths.checkpoint_directory(directory, run.run_id)
                execute(run, Runtime.local(checkpoints, device=device or self.device, **options), directory)
            row = store.read_row(paths.run_path(directory, run.run_id))
            if row["status"] != "ok":
                raise RuntimeError(f"{run.who}: {row['message']}")
            if row["role"] == "student":
                found.append(row)
        return found
