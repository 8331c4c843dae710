"""A whole experiment that is small enough for tests: 64 x 64 mosaics, two tiny networks, a handful of steps."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from harness.experiment import plan as protocol
from harness.experiment.load import load
from harness.experiment.spec import Run
from harness.results import paths, store

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"name": "texmosaic", "parameters": {"size": 64, "train": 12, "dev": 5, "val": 3}},
    "pairs": [
        {
            "name": "tiny",
            "teacher": {"architecture": "fpn", "encoder": "tu-mobilenetv3_small_050", "steps": 3},
            "student": {
                "architecture": "fpn",
                "encoder": "tu-mobilenetv3_small_050",
                "parameters": {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32},
            },
        }
    ],
    "train": {
        "steps": 6,
        "batch_size": 4,
        "optimizer": {"name": "adamw", "lr": 0.002},
        "schedule": {"warmup_steps": 2},
        "eval_every": 3,
        "checkpoint_every": 2,
    },
    "seeds": [0],
    "methods": ["none", "kd"],
    "controls": False,
}


class _Plain(yaml.SafeDumper):
    """Writes a value out wherever it stands: experiment files have no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write(folder: Path, **changes: Any) -> Path:
    """The tiny experiment as a file, with top-level keys replaced."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.dump({**TINY, **changes}, Dumper=_Plain))
    return path


def plan(folder: Path, *overrides: str, **changes: Any) -> list[Run]:
    """Its runs: the teacher first."""
    return protocol.plan(load(write(folder, **changes), overrides))


def measured(directory: Path, columns: Collection[str]) -> dict[str, dict[str, Any]]:
    """These columns of every row there is, by run_id."""
    return {
        run_id: {key: store.read_row(paths.run_path(directory, run_id))[key] for key in columns}
        for run_id in store.finished(directory)
    }


def in_process(run: Run, directory: Path, **options: Any) -> str:
    """Execute one run in this process; `options` are those of `Runtime.local`."""
    import torch

    from harness.results.paths import checkpoint_directory
    from harness.training.execute import execute
    from harness.training.runtime import Runtime

    torch.set_num_threads(1)
    checkpoints = checkpoint_directory(directory, run.run_id)
    return execute(run, Runtime.local(checkpoints, device=torch.device("cpu"), **options), directory)
