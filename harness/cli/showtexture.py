"""What `sstkd-bench show texture` draws: numbers from `training.texture`, pictures from `report.plots.texture`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness.report.plots import texture as textureplots
from harness.training import texture
from sstkd import CDM, DTIEM

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def image_pictures(image: NDArray[np.uint8], depths: Sequence[int], cdm: CDM, dtiem: DTIEM) -> dict[str, "Figure"]:
    """Subbands, frequency wedges and levels of an image, by name.

    Args:
        image: (H, W, 3), both sides multiples of `cdm.multiple`.
        depths: of the transform's levels, coarse to fine.
        cdm: the transform.
        dtiem: the equalisation.
    """
    found = texture.subbands(image, depths, cdm)
    bands = [[band[0, 0].numpy() for band in level] for level in found.bands]
    low, transform = found.lowpass[0, 0].numpy(), texture.described(cdm)
    return {
        "subbands": textureplots.subband_picture(image, low, bands, transform),
        "wedges": textureplots.wedge_picture(texture.wedges(cdm), transform),
        "levels": textureplots.level_picture(image, texture.equalisation(texture.edges(image), dtiem)),
    }


def network_picture(image: NDArray[np.uint8], pair: texture.Networks, cdm: CDM, dtiem: DTIEM) -> "Figure":
    """What a student and its teacher make of an image; a run of sstkd overrules `cdm` and `dtiem`."""
    read = texture.reading(pair.run, cdm, dtiem)
    features = texture.low_level(pair, image, read)
    names = (f"student ({pair.run.method.label})", "teacher")
    energies = [texture.direction_energy(x, read.cdm) for x in features]
    maps = [texture.equalisation(x, read.dtiem).after for x in features]
    return textureplots.pair_picture(image, names, energies, maps, read)
