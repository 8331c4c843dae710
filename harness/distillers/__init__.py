"""The distillers. Adding one is a file here and a line in METHODS."""

from harness.distillers.base import Distiller
from harness.distillers.cwd import CWD
from harness.distillers.kd import KD
from harness.distillers.none import NoDistillation
from harness.distillers.sstkd import SSTKD

METHODS: dict[str, type[Distiller]] = {
    "none": NoDistillation,
    "kd": KD,
    "cwd": CWD,
    "sstkd": SSTKD,
}

__all__ = ["CWD", "KD", "METHODS", "SSTKD", "Distiller", "NoDistillation"]
