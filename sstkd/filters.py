"""Low-pass filter pairs of the Laplacian pyramid, with their sources.

All are symmetric about their middle tap and normalised to sum sqrt(2), so a constant image grows by 2 per pyramid
level in two dimensions.
"""

from math import sqrt
from typing import Literal, NamedTuple

PyramidName = Literal["9-7", "5-3", "Burt"]


class PyramidFilters(NamedTuple):
    """One biorthogonal low-pass pair; tap i acts at offset i - len // 2."""

    analysis: tuple[float, ...]
    synthesis: tuple[float, ...]


def _scaled(numerators: tuple[int, ...], denominator: int) -> tuple[float, ...]:
    return tuple(sqrt(2.0) * n / denominator for n in numerators)


def pyramid_filters(name: PyramidName) -> PyramidFilters:
    """The analysis and synthesis low-pass taps of a Laplacian pyramid.

    - "9-7": Cohen, Daubechies, Feauveau, "Biorthogonal bases of compactly supported wavelets" (Comm. Pure Appl. Math.
      45, 1992). With y = sin^2(w/2), (1 - y)^2 times the real-root factor (7 taps) or the complex-pair factor (9 taps)
      of 1 + 4y + 10y^2 + 20y^3; the taps here are those products in 40 digits, rounded to float64.
    - "5-3": LeGall, Tabatabai, "Sub-band coding of digital images using symmetric short kernel filters" (ICASSP 1988).
    - "Burt": Burt, Adelson, "The Laplacian pyramid as a compact image code" (IEEE Trans. Comm. 31, 1983) with a = 0.6,
      and the 7-tap dual of Antonini, Barlaud, Mathieu, Daubechies (IEEE Trans. Image Proc. 1, 1992).

    Raises:
        ValueError: the name is none of these.
    """
    if name == "9-7":
        h = (0.03782845550699546, -0.02384946501938, -0.1106244044184234, 0.37740285561265374)
        g = (-0.06453888262893843, -0.04068941760955844, 0.4180922732222122)
        return PyramidFilters((*h, 0.8526986790094034, *h[::-1]), (*g, 0.7884856164056644, *g[::-1]))
    if name == "5-3":
        return PyramidFilters(_scaled((-1, 2, 6, 2, -1), 8), _scaled((1, 2, 1), 4))
    if name == "Burt":
        return PyramidFilters(
            _scaled((-1, 5, 12, 5, -1), 20),
            _scaled((-3, -15, 73, 170, 73, -15, -3), 280),
        )
    raise ValueError(f"unknown pyramid filters {name!r}; allowed: '9-7', '5-3', 'Burt'")
