"""The distillers. Adding one is a file here and a line in METHODS."""

from harness.distillers.af_dcd import AfDCD
from harness.distillers.at import AT
from harness.distillers.base import Distiller
from harness.distillers.cirkd import CIRKD
from harness.distillers.cwd import CWD
from harness.distillers.dist import DIST
from harness.distillers.dsd import DSD
from harness.distillers.feature_kd import FeatureKD
from harness.distillers.fitnet import FitNet
from harness.distillers.freekd import FreeKD
from harness.distillers.ifvd import IFVD
from harness.distillers.kd import KD
from harness.distillers.kt import KT
from harness.distillers.mgd import MGD
from harness.distillers.none import NoDistillation
from harness.distillers.skd import SKD
from harness.distillers.sstkd import SSTKD

METHODS: dict[str, type[Distiller]] = {
    "none": NoDistillation,
    "kd": KD,
    "fitnet": FitNet,
    "at": AT,
    "feature-kd": FeatureKD,
    "skd": SKD,
    "ifvd": IFVD,
    "cwd": CWD,
    "dsd": DSD,
    "cirkd": CIRKD,
    "dist": DIST,
    "mgd": MGD,
    "af-dcd": AfDCD,
    "freekd": FreeKD,
    "kt": KT,
    "sstkd": SSTKD,
}

__all__ = ["METHODS", "Distiller"]
