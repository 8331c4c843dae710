"""A texture head that trains a teacher's weights for DTIEM's variant `graph`, and embeddings for CDM and DTIEM.

    tiles of the features -> DTIEM's quantisation -> GraphEnhancement -> enhanced map; [enhanced, features] -> scores

With embeddings (`sstkd.embedding`), E_sta(features) takes the place of the features, and the classifier also reads
E_str(features): both are trained by the head's cross-entropy (decided, D).

As in STLNet (Zhu et al., CVPR 2021, arXiv 2103.04133), a 1x1 classifier reads the enhanced map concatenated with its
input features; tiles instead of the whole map are this project's decision, so that the graph is trained on regions of
the size it is used on. In the training step of a teacher:

    scores = F.interpolate(head(low_level_features), labels.shape[-2:], mode="bilinear")
    loss = task + 0.4 * F.cross_entropy(scores, labels, ignore_index=255)

For an already trained teacher, train only the head, on detached features.
"""

import torch
from torch import Tensor, nn

from sstkd.dtiem import DTIEM
from sstkd.embedding import TextureEmbedding
from sstkd.graph import GraphEnhancement
from sstkd.quantize import interpolate_vectors, whole


class TextureHead(nn.Module):
    """Class scores from features and their enhanced texture; DTIEM needs `head.graph.state_dict()`.

    Args:
        channels: C of the features.
        classes: K.
        width: D, width of the graph's vectors and of the projected features (decided, D).
        hidden: width of the graph's embedding (decided, D).
        tiles: regions along each side of the map, the same number of rows and columns (decided, D: a tile is as large
            as the largest region that `sample_regions` draws).
        levels: this and the next four as in `DTIEM`, which must be given the same values.
        iterations: see `DTIEM`.
        relaxation: see `DTIEM`.
        clip_limit: see `DTIEM`.
        min_range: see `DTIEM`.
        structural_embedding: width of the embedding for CDM; 0: none. The published size is that of
            `sstkd.embedding.WIDTHS` (that there is one inferred, I; its layers D).
        statistical_embedding: the same for DTIEM.

    Raises:
        ValueError: a number that is no integer or below 1, or as `DTIEM`.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        width: int = 32,
        hidden: int = 16,
        tiles: int = 2,
        levels: int = 32,
        iterations: int = 2,
        relaxation: float = 0.5,
        clip_limit: float | None = 4.0,
        min_range: float = 0.01,
        structural_embedding: int = 0,
        statistical_embedding: int = 0,
    ) -> None:
        super().__init__()
        if not whole(channels, classes, tiles) or min(channels, classes, tiles) < 1:
            raise ValueError(f"channels is {channels}, classes {classes}, tiles {tiles}; integers >= 1 are needed")
        self.tiles = tiles
        self.structural_embedding = _embedding(channels, structural_embedding)
        self.statistical_embedding = _embedding(channels, statistical_embedding)
        self.dtiem = DTIEM(levels, iterations, relaxation, clip_limit, min_range)
        self.graph = GraphEnhancement(width, hidden)
        self.graph.remember(self.dtiem.settings())
        seen = statistical_embedding or channels
        self.project = nn.Sequential(nn.Conv2d(seen, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.classify = nn.Conv2d(2 * width + structural_embedding, classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Class scores (N, K, H, W) of features (N, channels, H, W), at their resolution and in the weights' precision.

        Raises:
            ValueError: the features are not (N, channels, H, W), or empty.
        """
        seen = self._seen(features)
        parts = [self._enhanced(seen), self.project(seen.to(self.classify.weight.dtype))]
        if self.structural_embedding is not None:
            parts.append(self.structural_embedding(features))
        scores: Tensor = self.classify(torch.cat(parts, 1))
        return scores

    def enhance(self, features: Tensor) -> Tensor:
        """The enhanced map (N, D, H, W) of features (N, C, H, W); autocast is off.

        Raises:
            ValueError: the features are not (N, C, H, W), or empty.
        """
        return self._enhanced(self._seen(features))

    def _seen(self, features: Tensor) -> Tensor:
        """The features, or their embedding."""
        if features.ndim != 4 or not features.numel():
            raise ValueError(f"features must be (N, C, H, W) and not empty, got shape {tuple(features.shape)}")
        return features if self.statistical_embedding is None else self.statistical_embedding(features)

    def _enhanced(self, features: Tensor) -> Tensor:
        n, _, height, width = features.shape
        positions, home = tile_positions(height, width, self.tiles, features.device)
        with torch.autocast(features.device.type, enabled=False):
            levels, share, assignment = self.dtiem.quantize(features, positions.expand(n, -1, -1))
            vectors_NMPD = interpolate_vectors(assignment, self.graph(levels, share))
            map_NLD = vectors_NMPD.flatten(1, 2).index_select(1, home)
        return map_NLD.mT.reshape(n, -1, height, width)


def _embedding(channels: int, width: int) -> TextureEmbedding | None:
    return TextureEmbedding(channels, width) if width else None


def tile_positions(height: int, width: int, tiles: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Tiles of equal size that cover a map, overlapping where a side is not a multiple of `tiles`.

    Returns:
        Positions (M, P) int64 of each tile's places in the flattened map, and, for each of the map's height * width
        positions, the index of one of its places among all M P.
    """
    lines, homes, sides = [], [], []
    for length in (height, width):
        side = -(-length // tiles)
        number = -(-length // side)
        start = (torch.arange(number, device=device) * side).clamp(max=length - side)
        along = torch.arange(length, device=device)
        tile = along // side
        lines.append(start[:, None] + torch.arange(side, device=device))
        homes.append((tile, along - start[tile]))
        sides.append(side)
    rows, columns = lines
    positions = rows[:, None, :, None] * width + columns[None, :, None, :]
    (row_tile, row_place), (column_tile, column_place) = homes
    tile = row_tile[:, None] * len(columns) + column_tile
    home = (tile * sides[0] + row_place[:, None]) * sides[1] + column_place
    return positions.flatten(2).flatten(0, 1), home.flatten()
