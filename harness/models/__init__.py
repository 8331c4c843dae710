"""Networks of a pair: build, load weights, read taps."""

from harness.models.segnet import ARCHITECTURES, SegNet, build
from harness.models.weights import load_into, load_state, save_state, state_sha256

__all__ = ["ARCHITECTURES", "SegNet", "build", "load_into", "load_state", "save_state", "state_sha256"]
