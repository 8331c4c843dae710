"""The denoised equalisation against OpenCV: with OpenCV's clipping rule it is `cv2.createCLAHE` on uint8 images.

clahe_128.npz: an image and what OpenCV 5.0 makes of it, CLAHE with 8x8 tiles and plain equalisation. The 256 grey levels
are the levels; everything between the grey values and the result runs through DTIEM's own parts.
"""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from sstkd.dtiem import clip_counts, cumulative
from sstkd.quantize import assign, counts, interpolate

ORACLE = dict(np.load(Path(__file__).with_name("clahe_128.npz")))
IMAGE = ORACLE["u8"]
GREY = torch.arange(256, dtype=torch.float64)


def transfer(values_MP: Tensor, clip_limit: float) -> Tensor:
    """Equalised value of each grey level from the values of each tile: (M, P) -> (M, 256), in [0, 255]."""
    share = counts(assign(values_MP, GREY.expand(len(values_MP), 256)), 256)
    return 255 * cumulative(clip_counts(share, clip_limit, positions=values_MP.shape[-1]))


def one_tile(image: np.ndarray, clip_limit: float) -> Tensor:
    values = torch.from_numpy(image).double().flatten()[None]
    return interpolate(assign(values, GREY[None]), transfer(values, clip_limit)).view(image.shape)


def grey_levels_apart(ours: Tensor, theirs: np.ndarray) -> int:
    return int((ours.round().long() - torch.from_numpy(theirs.astype(np.int64))).abs().max())


@pytest.mark.parametrize("clip_limit", [0.5, 1.0, 1.37, 2.0, 3.7, 4.0, 10.0, 40.0, 256.0])
@pytest.mark.parametrize("crop", [(128, 128), (128, 96), (61, 47), (16, 16), (3, 5), (1, 1)])
def test_one_tile_is_opencvs_clahe(clip_limit: float, crop: tuple[int, int]) -> None:
    image = np.ascontiguousarray(IMAGE[: crop[0], : crop[1]])
    theirs = cv2.createCLAHE(clip_limit, (1, 1)).apply(image)
    assert grey_levels_apart(one_tile(image, clip_limit), theirs) <= 1


@pytest.mark.parametrize("kind", ["constant", "two levels", "every level", "noise"])
@pytest.mark.parametrize("clip_limit", [1.0, 3.0, 40.0])
def test_one_tile_of_other_images(kind: str, clip_limit: float) -> None:
    rng = np.random.default_rng(0)
    image = {
        "constant": np.full((32, 32), 77),
        "two levels": 255 * (np.arange(1024) % 3 == 0).reshape(32, 32),
        "every level": np.arange(1024).reshape(32, 32) // 4,
        "noise": rng.integers(0, 256, (32, 32)),
    }[kind].astype(np.uint8)
    theirs = cv2.createCLAHE(clip_limit, (1, 1)).apply(image)
    assert grey_levels_apart(one_tile(image, clip_limit), theirs) <= 1


@pytest.mark.parametrize("clip_limit", [2, 4, 40])
def test_tiles_as_regions_give_the_stored_images(clip_limit: int) -> None:
    tiles, side = 8, 16
    image = torch.from_numpy(IMAGE)
    values = image.view(tiles, side, tiles, side).transpose(1, 2).reshape(tiles * tiles, -1).double()
    table = transfer(values, clip_limit).round().view(tiles, tiles, 256)
    # OpenCV blends the tables of four tiles; it takes a pixel to lie at its upper left corner.
    place = torch.arange(128) / side - 0.5
    low = place.floor().long()
    part = place - low
    pair = (low.clamp(min=0), (low + 1).clamp(max=tiles - 1))
    blended = torch.zeros(128, 128, dtype=torch.float64)
    for rows, by_row in zip(pair, (1 - part, part), strict=True):
        for columns, by_column in zip(pair, (1 - part, part), strict=True):
            blended += by_row[:, None] * by_column * table[rows[:, None], columns[None], image.long()]
    assert grey_levels_apart(blended, ORACLE[f"cv2_clip{clip_limit}_grid8"]) <= 1


def test_without_clipping_it_is_plain_equalisation() -> None:
    share = counts(assign(torch.from_numpy(IMAGE).double().flatten(), GREY), 256)
    table = 255 * cumulative(share)
    # OpenCV's plain equalisation leaves the darkest grey level that occurs out of the sum.
    darkest = share[share > 0][0]
    table = ((table - 255 * darkest) / (1 - darkest)).clamp(min=0)
    values = torch.from_numpy(IMAGE).double().flatten()
    ours = interpolate(assign(values, GREY), table).view(128, 128)
    assert grey_levels_apart(ours, ORACLE["cv2_equalizeHist"]) <= 1


@pytest.mark.parametrize("clip_limit", [1.0, 2.0, 4.0, 40.0])
def test_shares_of_any_size_differ_from_whole_counts_by_less_than_two_grey_levels(clip_limit: float) -> None:
    """DTIEM itself clips real shares: OpenCV's whole counts are rounded, which matters in small tiles only."""
    values = torch.from_numpy(IMAGE).double().flatten()
    share = counts(assign(values, GREY), 256)
    ours = 255 * cumulative(clip_counts(share, clip_limit))[torch.from_numpy(IMAGE).long()]
    theirs = cv2.createCLAHE(clip_limit, (1, 1)).apply(IMAGE)
    assert grey_levels_apart(ours, theirs) <= 1
