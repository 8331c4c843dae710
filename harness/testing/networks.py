"""Taps of real networks (eight architectures by six encoders), and pairs with each of them as teacher and student."""

import functools

import torch

from harness.models import ARCHITECTURES as MODELS
from harness.models import SegNet
from harness.taps import NetworkInfo, Pair
from harness.testing.made_up import CLASSES, IGNORE

ARCHITECTURES = ("unet", "linknet", "fpn", "pspnet", "deeplabv3", "deeplabv3plus", "upernet", "segformer")
ENCODERS = ("resnet18", "mobilenet_v2", "efficientnet-b0", "mit_b0", "tu-mobilenetv3_small_050", "tu-convnext_atto")
_STEP = 19  # apart in the list: another architecture, and mostly another encoder
PAPERS = (("pspnet-papers", "tu-resnet18"), ("deeplabv3-cirkd", "tu-resnet18"))


@functools.cache
def networks() -> tuple[dict[str, NetworkInfo], dict[str, str]]:
    """Taps of each network ARCHITECTURE/ENCODER, and the reasons why the others cannot be built."""
    found, refused = {}, {}
    for architecture, encoder in (*((a, e) for a in ARCHITECTURES for e in ENCODERS), *PAPERS):
        try:
            found[f"{architecture}/{encoder}"] = _info(architecture, encoder)
        except (ValueError, RuntimeError, AssertionError) as error:
            refused[f"{architecture}/{encoder}"] = str(error)
    return found, refused


def _info(architecture: str, encoder: str) -> NetworkInfo:
    # Shapes need no numbers: a dry run without memory is several times faster. MiT reads a number when it is built.
    with torch.device("cpu" if encoder.startswith("mit_") else "meta"):
        return SegNet(MODELS[architecture](encoder_name=encoder, encoder_weights=None, classes=CLASSES)).info()


def pairs() -> dict[str, Pair]:
    """TEACHER -> STUDENT. Each network is teacher once and student once, with another architecture and encoder."""
    found, _ = networks()
    names = list(found)
    return {
        f"{teacher} -> {student}": Pair(found[student], found[teacher], CLASSES, IGNORE)
        for teacher, student in zip(names, names[_STEP:] + names[:_STEP], strict=True)
    }
