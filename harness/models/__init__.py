"""Networks of a pair: build, load weights, read taps."""

from harness.models.build import ARCHITECTURES, build
from harness.models.pretrained import load_weights
from harness.models.segnet import SegNet
from harness.models.tapnet import TapNet
from harness.models.weights import load_into, load_state, save_state, state_sha256

__all__ = [
    "ARCHITECTURES",
    "SegNet",
    "TapNet",
    "build",
    "load_into",
    "load_state",
    "load_weights",
    "save_state",
    "state_sha256",
]
