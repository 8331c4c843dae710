"""An experiment whose student starts from published weights, and such weights."""

import io
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from harness.experiment.load import load
from harness.experiment.plan import outline
from harness.experiment.spec import Experiment
from harness.experiment.weights import Weights
from tests.support import tiny

ENCODER, REPOSITORY = "mobilenetv3_small_050", "timm/mobilenetv3_small_050.lamb_in1k"
CARD = b"---\ntags:\n- timm\nlicense: apache-2.0\nlibrary_name: timm\n---\n# A model\nlicense: none\n"
IMAGENET = "pairs.0.student.encoder_weights=imagenet"
DATA = {"name": "texmosaic", "parameters": {"size": 64, "train": 4, "dev": 2, "val": 1}}


def random_state(seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return dict(timm.create_model(ENCODER, pretrained=False).state_dict())


def pickled(content: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


def experiment(folder: Path, *settings: str) -> Experiment:
    return load(tiny.write(folder, data=DATA), settings)


def student(found: Experiment) -> Weights:
    weights = found.pairs[0].student.encoder_weights
    assert weights is not None
    return weights


def ids(found: Experiment) -> list[str]:
    return [run.run_id for run in outline(found)]
