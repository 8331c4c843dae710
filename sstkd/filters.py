"""Filter taps of the Laplacian pyramid and of the directional filter bank, with their sources.

Pyramid pairs are symmetric about their middle tap and normalised to sum sqrt(2), so a constant image grows by 2 per
pyramid level in two dimensions. All taps are float64.
"""

from dataclasses import dataclass
from functools import cache
from math import sqrt
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

PyramidName = Literal["9-7", "5-3", "Burt", "pkva"]
DirectionalName = Literal["pkva", "pkva6", "pkva8", "9-7", "5-3", "pkva-fir", "pkva6-fir", "pkva8-fir"]
DIRECTIONAL: tuple[str, ...] = get_args(DirectionalName)
Array = NDArray[np.float64]

# Half of the symmetric even-length lifting filters. 'pkva': Phoong, Kim, Vaidyanathan, Ansari, "A new class of
# two-channel biorthogonal filter banks and wavelet bases" (IEEE Trans. Signal Proc. 43, 1995), 12 taps in the four
# decimals that are published; 'pkva8' and 'pkva6' are the shorter designs of the same family.
LADDERS: dict[object, tuple[float, ...]] = {
    "pkva": (0.63, -0.193, 0.0972, -0.0526, 0.0272, -0.0144),
    "pkva8": (0.6302, -0.1924, 0.093, -0.0403),
    "pkva6": (0.6261, -0.1794, 0.0688),
}


_MULTIPLIED_OUT: dict[object, DirectionalName] = {
    "pkva-fir": "pkva",
    "pkva6-fir": "pkva6",
    "pkva8-fir": "pkva8",
}


class PyramidFilters(NamedTuple):
    """One biorthogonal low-pass pair; tap i acts at offset i - len // 2."""

    analysis: tuple[float, ...]
    synthesis: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class FanFilters:
    """Diamond low-pass and high-pass of an FIR quincunx bank; shifting one axis by pi makes fans of them.

    Compared by identity: tables are cached per object, so keep one object for one pair.

    Args:
        low: taps (h, w), both sides odd, symmetric about the middle.
        high: likewise, of any odd sides.

    Raises:
        ValueError: even sides, no such symmetry, or a pair without an FIR inverse: low(w) high(w + pi) + high(w)
            low(w + pi) is not constant.
    """

    low: Array
    high: Array

    def __post_init__(self) -> None:
        for name, taps in (("low", self.low), ("high", self.high)):
            if taps.ndim != 2 or not all(side % 2 for side in taps.shape):
                raise ValueError(f"{name} has shape {taps.shape}; two odd sides are needed")
            if not np.isfinite(taps).all():
                raise ValueError(f"{name} has taps that are not finite")
            if not np.allclose(taps, taps[::-1, ::-1], rtol=0, atol=1e-9 * np.abs(taps).max()):
                raise ValueError(f"{name} is not symmetric about its middle tap")
        # Of the product of low with the modulated high only the middle may stay, on the lattice of even sums.
        product = _convolve(self.low, self.high * _alternating(self.high.shape))
        rest = np.where(_alternating(product.shape) > 0, product, 0.0)
        middle = abs(rest[product.shape[0] // 2, product.shape[1] // 2])
        rest[product.shape[0] // 2, product.shape[1] // 2] = 0.0
        left = np.abs(rest).max()
        if not (left <= 1e-6 * np.abs(product).max() and middle > 1e-6 * np.abs(product).max()):
            raise ValueError(
                f"low and high are not biorthogonal: the middle tap of their product is {middle:.2g}, "
                f"and {left:.2g} is left beside it"
            )


Pyramid = PyramidName | PyramidFilters
Directional = DirectionalName | FanFilters


def _alternating(shape: tuple[int, ...]) -> Array:
    """(-1) to the sum of both offsets from the middle."""
    i, j = np.indices(shape)
    signs: Array = (-1.0) ** (i - shape[0] // 2 + j - shape[1] // 2)
    return signs


def _scaled(numerators: tuple[int, ...], denominator: int) -> tuple[float, ...]:
    return tuple(sqrt(2.0) * n / denominator for n in numerators)


def directional_filters(name: Directional) -> None:
    """Check the filters of a directional bank.

    Raises:
        ValueError: neither the name of one nor `FanFilters`.
    """
    if not isinstance(name, FanFilters) and name not in DIRECTIONAL:
        raise ValueError(f"unknown directional filters {name!r}; allowed: {', '.join(map(repr, DIRECTIONAL))}")


def pyramid_filters(name: Pyramid) -> PyramidFilters:
    """The analysis and synthesis low-pass taps of a Laplacian pyramid; a pair of one's own is given back.

    - "9-7": Cohen, Daubechies, Feauveau, "Biorthogonal bases of compactly supported wavelets" (Comm. Pure Appl. Math.
      45, 1992). With y = sin^2(w/2), (1 - y)^2 times the real-root factor (7 taps) or the complex-pair factor (9 taps)
      of 1 + 4y + 10y^2 + 20y^3; the taps here are those products in 40 digits, rounded to float64.
    - "5-3": LeGall, Tabatabai, "Sub-band coding of digital images using symmetric short kernel filters" (ICASSP 1988).
    - "Burt": Burt, Adelson, "The Laplacian pyramid as a compact image code" (IEEE Trans. Comm. 31, 1983) with a = 0.6,
      and the 7-tap dual of Antonini, Barlaud, Mathieu, Daubechies (IEEE Trans. Image Proc. 1, 1992).
    - "pkva": with b the up-sampled lifting filter of that name, (1 + b) / sqrt(2) and (2 + b - b*b) / sqrt(2). Its
      taps have four decimals, so the pyramid leaks a little of a constant into the bands (sum 1.4063, not 1.4142).

    Raises:
        ValueError: the name is none of these, or taps of one's own are not tuples of odd length, symmetric and
            biorthogonal: sum over n of analysis[n] synthesis[n + 2 k] is 1 for k = 0, else 0.
    """
    if not isinstance(name, PyramidFilters) and name not in get_args(PyramidName):
        raise ValueError(f"unknown pyramid filters {name!r}; allowed: {', '.join(map(repr, get_args(PyramidName)))}")
    if isinstance(name, PyramidFilters) and not all(isinstance(taps, tuple) for taps in name):
        raise ValueError(f"pyramid taps must be tuples; given {name}")
    return _pyramid_filters(name)


@cache
def _pyramid_filters(name: Pyramid) -> PyramidFilters:
    if isinstance(name, PyramidFilters):
        for taps in name:
            if len(taps) % 2 == 0 or not np.allclose(taps, taps[::-1], rtol=0, atol=1e-9):
                raise ValueError(f"pyramid taps must be of odd length and symmetric; given {taps}")
        product = np.convolve(*name)
        off = np.abs(product - (np.arange(len(product)) == len(product) // 2))[len(product) // 2 % 2 :: 2].max()
        if not off <= 1e-6:
            raise ValueError(
                f"analysis and synthesis taps are not biorthogonal: their product differs by {off:.2g} from what "
                "reconstruction needs, 1 in the middle and 0 at the other even taps"
            )
        return name
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
    if name == "pkva":
        b = np.zeros((2 * len(ladder_taps("pkva")) - 1, 1))
        b[::2, 0] = ladder_taps("pkva")
        return PyramidFilters(tuple(_lifted(b)[0][:, 0].tolist()), tuple(_lifted(-b)[1][:, 0].tolist()))
    raise AssertionError(name)


def ladder_taps(name: Directional) -> Array:
    """The symmetric even-length lifting filter of a ladder bank: (12,), (8,) or (6,)."""
    half = np.array(LADDERS[name])
    return np.concatenate((half[::-1], half))


@cache
def fan_filters(name: Directional) -> FanFilters:
    """The diamond pair of an FIR bank; a pair of one's own is given back.

    - "9-7", "5-3": the one-dimensional pyramid pair through McClellan's transform cos w -> (cos w_row + cos w_col) / 2.
      The high-pass is the modulated synthesis low-pass.
    - "pkva-fir", "pkva6-fir", "pkva8-fir": the ladders multiplied out, (1 + b) / sqrt(2) and (2 - b - b*b) / sqrt(2).

    """
    if isinstance(name, FanFilters):
        return name
    if name in _MULTIPLIED_OUT:
        taps = ladder_taps(_MULTIPLIED_OUT[name])
        side = 2 * len(taps) - 1
        b = np.zeros((side, side))
        i, j = np.indices((len(taps), len(taps)))
        b[i + j, i - j + len(taps) - 1] = np.outer(taps, taps)  # offsets half-integer + half-integer, quincunx
        return FanFilters(*_lifted(b))
    assert name in ("9-7", "5-3"), name
    low, high = (np.array(taps) for taps in pyramid_filters(name))
    return FanFilters(_diamond(low), _diamond(high * (-1.0) ** (np.arange(len(high)) - len(high) // 2)))


def _lifted(b: Array) -> tuple[Array, Array]:
    """(1 + b) / sqrt(2) and (2 - b - b*b) / sqrt(2) for a centred filter b of odd sides."""
    one = np.zeros_like(b)
    one[b.shape[0] // 2, b.shape[1] // 2] = 1.0
    squared = _convolve(b, b)
    margin = [(s // 2, s // 2) for s in b.shape]
    return (one + b) / sqrt(2.0), (np.pad(2 * one - b, margin) - squared) / sqrt(2.0)


def _diamond(taps: Array) -> Array:
    """McClellan's transform of a symmetric odd-length filter: sum of a_k T_k((cos w_row + cos w_col) / 2)."""
    middle = len(taps) // 2
    t = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) / 4
    powers = [np.ones((1, 1)), t]
    for _ in range(middle - 1):  # T_k = 2 t T_{k-1} - T_{k-2}
        powers.append(2 * _convolve(t, powers[-1]) - np.pad(powers[-2], 2))
    diamond = np.zeros((len(taps), len(taps)))
    for k, power in enumerate(powers[: middle + 1]):
        diamond += (taps[middle] if k == 0 else 2 * taps[middle + k]) * np.pad(power, middle - k)
    return diamond


def _convolve(a: Array, b: Array) -> Array:
    """Full two-dimensional convolution of small filters."""
    out = np.zeros((a.shape[0] + b.shape[0] - 1, a.shape[1] + b.shape[1] - 1))
    for (i, j), tap in np.ndenumerate(a):
        out[i : i + b.shape[0], j : j + b.shape[1]] += tap * b
    return out
