"""STLNet's texture modules: counting operators in one and two dimensions, texture enhancement, pyramid of textures.

    QCO1d   s_i = cosine(x_i, mean x); N levels over their range; C_n = share of level n; features of (L_n, C_n, mean x)
    TEM     f = softmax(k^T q) v over the levels' features; out_i = sum_n w_n(s_i) f_n
    QCO2d   the same in each cell of an s x s grid, on shares C_mn of pairs of diagonal neighbours
    PTFEM   QCO2d at s = 1, 2, 3, 6, resized to the map
    STL     TEM and PTFEM behind each other, concatenated with their input

From Zhu, Ji, Zhu, Gan, Wu, Yan, "Learning Statistical Texture for Semantic Segmentation" (CVPR 2021, arXiv 2103.04133),
https://github.com/lanyunzhu99/Learning-Statistical-Texture-for-Semantic-Segmentation. The numbers and the names of the
parameters are those of the released code (its weights load), which differs from the paper in the half-width of a level
(one distance between levels, not half) and in the neighbour (diagonal). Deviations from the code:

    cost      a position's two levels and weights, never a positions x levels table
    constant  a constant map or cell gets levels around its value (`uniform_levels`); the code gives NaN
    sizes     QCO2d takes every map. As the code does, it pools sides to a multiple of the number of levels; where the
              grid would not divide that (the code then raises: sides not multiples of 24 for s = 3 or 6), to a multiple
              of both, or of the grid where the side is too small for both
    zeros     a zero feature has similarity 0 with gradient 0; the code's gradient there is 1e12
    precision intensities, levels and counts in float32 or wider, whatever autocast says

V marks defaults verified in the released code.

Shapes: N images, C channels, H x W map, P positions, L levels, S = s^2 cells.
"""

from math import lcm

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sstkd.quantize import (
    Assignment,
    assign,
    cooccurrence,
    interpolate_vectors,
    stlnet_statistic,
    uniform_levels,
    whole,
)

SCALES = (1, 2, 3, 6)


class QCO1d(nn.Module):
    """Features of the levels of a map's intensities, and how the positions share the levels.

    Args:
        levels: L, at least 2 (128: V).
        width: channels of the map, a multiple of 4 (256: V).

    Raises:
        ValueError: a value outside the ranges above.
    """

    def __init__(self, levels: int = 128, width: int = 256) -> None:
        super().__init__()
        _check(levels, width)
        self.levels = levels
        self.conv1 = nn.Sequential(_Conv(2, width, width, kernel=3, norm=True), nn.LeakyReLU())
        self.conv2 = _Conv(2, width, width // 2)
        self.f1 = nn.Sequential(_Conv(1, 2, width // 4), nn.LeakyReLU())
        self.f2 = _Conv(1, width // 4, width // 2, relu=True)
        self.out = _Conv(1, width, width // 2, norm=True, relu=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Assignment]:
        """(N, width, H, W) -> (N, width / 2, L) and the assignment of the (N, H W) positions.

        Raises:
            ValueError: the map is not (N, C, H, W), or empty.
        """
        _check_map(x)
        x = self.conv2(self.conv1(x)).flatten(2)
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            mean = x.mean(2)
            intensity = _cosine(x, mean[:, :, None])
            levels, share = stlnet_statistic(intensity, self.levels)
            assignment = assign(intensity, levels, "stlnet")
        y = self.f2(self.f1(torch.stack((levels, share), 1)))
        return self.out(torch.cat((y, mean[..., None].expand(-1, -1, self.levels)), 1)), assignment


class TEM(nn.Module):
    """Texture enhancement: the levels' features, related to each other, read back at the positions.

    Args:
        levels: as in QCO1d (V).
        width: as in QCO1d (V).
    """

    def __init__(self, levels: int = 128, width: int = 256) -> None:
        super().__init__()
        self.qco = QCO1d(levels, width)
        self.k = _Conv(1, width // 2, width // 2)
        self.q = _Conv(1, width // 2, width // 2)
        self.v = _Conv(1, width // 2, width // 2)
        self.out = _Conv(1, width // 2, width, norm=True, relu=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> the same shape, channels last in memory."""
        features, assignment = self.qco(x)
        graph_NLL = (self.k(features).mT @ self.q(features)).softmax(-1)
        level_NCL = self.out((graph_NLL @ self.v(features).mT).mT)
        read_NCP = interpolate_vectors(assignment, level_NCL.mT).mT
        return read_NCP.view(*read_NCP.shape[:2], *x.shape[2:])


class QCO2d(nn.Module):
    """Features of the pairs of levels of diagonal neighbours, in each cell of an s x s grid.

    Args:
        scale: s, cells along each side, at least 1.
        levels: L, at least 2 (8: V).
        width: as in QCO1d (V).

    Raises:
        ValueError: a value outside the ranges above.
    """

    def __init__(self, scale: int, levels: int = 8, width: int = 256) -> None:
        super().__init__()
        _check(levels, width)
        if not whole(scale) or scale < 1:
            raise ValueError(f"scale is {scale}; it must be an integer, at least 1")
        self.scale, self.levels = scale, levels
        self.f1 = nn.Sequential(_Conv(2, 3, width // 4), nn.LeakyReLU())
        self.f2 = _Conv(2, width // 4, width // 2, relu=True)
        self.out = nn.Sequential(
            _Conv(2, width + width // 2, width // 2, norm=True, relu=True),
            _Conv(2, width // 2, width // 2, norm=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> (N, width / 2, s, s).

        Raises:
            ValueError: the map is not (N, C, H, W), or empty.
        """
        _check_map(x)
        hw = self._side(x.shape[2]), self._side(x.shape[3])
        if hw != tuple(x.shape[2:]):
            x = F.adaptive_avg_pool2d(x, hw)
        s, number = self.scale, self.levels
        cell_hw = hw[0] // s, hw[1] // s
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(torch.promote_types(x.dtype, torch.float32))
            grid = x.view(*x.shape[:2], s, cell_hw[0], s, cell_hw[1])
            mean = grid.mean((3, 5), keepdim=True)
            intensity_NSP = _cosine(grid, mean).transpose(2, 3).flatten(3).flatten(1, 2)
            levels = uniform_levels(intensity_NSP, number)
            pairs = cooccurrence(assign(intensity_NSP, levels, "stlnet"), cell_hw, number)
            second, first = levels[..., None, :].expand_as(pairs), levels[..., :, None].expand_as(pairs)
            statistic = torch.stack((second, first, pairs), 1).flatten(3)  # (N, 3, S, L L)
        y = self.f2(self.f1(statistic))
        mean_NCS = mean.flatten(2)[..., None].expand(-1, -1, -1, number * number)
        features_NCS: Tensor = self.out(torch.cat((mean_NCS, y), 1)).mean(-1)
        return features_NCS.view(*features_NCS.shape[:2], s, s)

    def _side(self, length: int) -> int:
        both = lcm(self.levels, self.scale)
        unit = both if length >= both else self.scale
        return max(length // unit, 1) * unit


class PTFEM(nn.Module):
    """Pyramid of texture features: QCO2d at four scales.

    Args:
        levels: as in QCO2d (V).
        width: channels of the result; the map has twice as many (256: V).
    """

    def __init__(self, levels: int = 8, width: int = 256) -> None:
        super().__init__()
        self.conv = _Conv(2, 2 * width, width)
        self.qco_1, self.qco_2, self.qco_3, self.qco_6 = (QCO2d(scale, levels, width) for scale in SCALES)
        self.out = _Conv(2, 2 * width, width, norm=True, relu=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 2 width, H, W) -> (N, width, H, W).

        Raises:
            ValueError: the map is not (N, C, H, W), or empty.
        """
        _check_map(x)
        hw = x.shape[2:]
        x = self.conv(x)
        grids = [operator(x) for operator in (self.qco_1, self.qco_2, self.qco_3, self.qco_6)]
        maps = [F.interpolate(grid, hw, mode="bilinear", align_corners=True) for grid in grids]
        result: Tensor = self.out(torch.cat(maps, 1))
        return result


class STL(nn.Module):
    """The complete head: [PTFEM, TEM, input], concatenated.

    Args:
        channels: channels of the map.
        levels: levels of the texture enhancement (128: V).
        width: channels of each of the three parts of the result (256: V).
    """

    def __init__(self, channels: int, levels: int = 128, width: int = 256) -> None:
        super().__init__()
        self.conv_start = _Conv(2, channels, width, norm=True, relu=True)
        self.tem = TEM(levels, width)
        self.ptfem = PTFEM(width=width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, H, W) -> (N, 3 width, H, W).

        Raises:
            ValueError: the map is not (N, C, H, W), or empty.
        """
        _check_map(x)
        x = self.conv_start(x)
        x = torch.cat((self.tem(x), x), 1)
        return torch.cat((self.ptfem(x), x), 1)


class _Conv(nn.Module):
    """Convolution without bias in 1 or 2 dimensions, then optional batch normalisation and ReLU."""

    def __init__(
        self, dimensions: int, wide_in: int, wide_out: int, *, kernel: int = 1, norm: bool = False, relu: bool = False
    ) -> None:
        super().__init__()
        convolution, batch_norm = ((nn.Conv1d, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d))[dimensions - 1]
        self.conv = convolution(wide_in, wide_out, kernel, padding=kernel // 2, bias=False)
        if norm:
            self.bn = batch_norm(wide_out)
        self.norm, self.relu = norm, relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.norm:
            x = self.bn(x)
        return x.relu() if self.relu else x


def _cosine(x: Tensor, mean: Tensor, eps: float = 1e-12) -> Tensor:
    """Cosine over dimension 1 of x (N, C, ...) and a mean that broadcasts to it; 0, with gradient 0, where x is 0."""
    norm = torch.linalg.vector_norm(x, dim=1)
    mean = F.normalize(mean, dim=1, eps=eps)
    return torch.where(norm > eps, (x * mean).sum(1) / norm.clamp(min=eps), 0.0)


def _check(levels: int, width: int) -> None:
    if not whole(levels, width) or levels < 2 or width < 4 or width % 4:
        raise ValueError(f"levels is {levels}, width {width}; an integer, at least 2, and a multiple of 4 are needed")


def _check_map(x: Tensor) -> None:
    if x.ndim != 4 or not x.numel():
        raise ValueError(f"the map must be (N, C, H, W) and not empty, got shape {tuple(x.shape)}")
