"""The directional filter bank of the contourlet transform: critically sampled, with perfect reconstruction.

Bamberger, Smith, "A filter bank for the directional decomposition of images" (IEEE Trans. Signal Proc. 40, 1992), as
the tree of Do, Vetterli, "The contourlet transform" (IEEE Trans. Image Proc. 14, 2005).
"""

from collections.abc import Sequence

from torch import Tensor

from sstkd._linear import Boundary, analyse, check_sides, plan, prepared, stacked, synthesise, widest
from sstkd.filters import Directional


def directional_filter_bank(
    x: Tensor, k: int, directional: Directional = "pkva", boundary: Boundary = "periodic"
) -> list[Tensor]:
    """Split maps into 2 ** k directions that together have as many samples as x.

    Direction b is the wedge of frequencies whose slope, row over column, is in [-1 + 4 b / 2**k, -1 + 4 (b + 1) / 2**k]
    for the first half, and column over row, falling from 1 to -1, for the second.

    Args:
        x: real maps, (..., H, W). Half precision is widened to float32; autocast is off.
        k: depth, from 0 (the maps themselves) to 8.
        directional: filters, see `contourlet`.
        boundary: "periodic" or "toolbox", see `contourlet`.

    Returns:
        For k >= 2 the first half (..., H / 2 ** (k - 1), W / 2), the second half (..., H / 2, W / 2 ** (k - 1)); for
        k = 1 two of (..., H / 2, W).

    Raises:
        ValueError: k outside 0..8, unknown filters or boundary, or sides that do not fit; names the needed multiple.
    """
    made = plan((1 if k == 0 else k,), None, directional, boundary)
    if k == 0:
        return [prepared(x, 1).reshape(x.shape)]
    groups = analyse(prepared(x, made.multiple), made)
    return [band for g in groups for band in g.reshape(*x.shape[:-2], *g.shape[1:]).unbind(-3)]


def inverse_directional_filter_bank(
    bands: Sequence[Tensor], directional: Directional = "pkva", boundary: Boundary = "periodic"
) -> Tensor:
    """Reconstruct the maps (..., H, W) from all 2 ** k bands of `directional_filter_bank`.

    Raises:
        ValueError: the number of bands is not a power of two, shapes do not match, or unknown filters.
    """
    number = len(bands)
    if not number or number & (number - 1) or any(band.ndim < 2 for band in bands):
        raise ValueError(f"there are {number} bands; a power of two is needed, each (..., h, w)")
    k = number.bit_length() - 1
    made = plan((k or 1,), None, directional, boundary)
    if k == 0:
        return bands[0].to(widest(bands))
    rows, cols = bands[0].shape[-2:]
    hw = rows << (max(k, 2) - 1), cols * (1 if k == 1 else 2)
    check_sides(hw, made.multiple)
    (shapes,) = made.shapes(*hw)[1]
    lead = tuple(bands[0].shape[:-2])
    return synthesise(tuple(stacked(bands, shapes, lead, widest(bands))), hw, made).reshape(*lead, *hw)
