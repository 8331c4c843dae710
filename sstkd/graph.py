"""Texture enhancement of a histogram by a graph over its levels, with weights trained with a teacher.

    e_n = MLP(L_n, N C_n);  q, k, v = linear maps of e;  f_m = sum_n softmax_n(k_m . q_n) v_n;  F_m = ReLU(BN(W f_m))

L_n: level n of a region, in units of the intensity; C_n: its share after denoising, N C_n = 1 where it is the uniform
share, so that the weights do not depend on the number of levels. The graph is that of STLNet's texture enhancement
module (Zhu et al., CVPR 2021, arXiv 2103.04133; verified in the released code); left out is the mean feature it
concatenates (decided, D): without it the weights fit teachers of any width, and what they see is texture only.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sstkd.quantize import whole

SETTINGS = ("levels", "iterations", "relaxation", "clip_limit", "min_range")
HOW_TO_TRAIN = (
    "Train the teacher with sstkd.TextureHead(channels, classes) on the features that will be distilled, adding the "
    "cross-entropy of the head's scores to the teacher's loss; save head.graph.state_dict(); load it with "
    "sstkd.GraphEnhancement.from_state. Variant 'equalize' needs no weights"
)


class GraphEnhancement(nn.Module):
    """A vector for each level of a histogram, computed from all levels and shares.

    Args:
        width: D, length of the vectors (decided, D; STLNet's 128 and 256 belong to a head of its own).
        hidden: width inside the embedding (decided, D).

    Raises:
        ValueError: a value is not an integer or below 1.
    """

    texture_settings: Tensor

    def __init__(self, width: int = 32, hidden: int = 16) -> None:
        super().__init__()
        if not whole(width, hidden) or width < 1 or hidden < 1:
            raise ValueError(f"width is {width}, hidden {hidden}; integers, at least 1, are needed")
        self.width = width
        self.embed = nn.Sequential(nn.Linear(2, hidden), nn.LeakyReLU(0.01), nn.Linear(hidden, width), nn.ReLU())
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.register_buffer("texture_settings", torch.zeros(len(SETTINGS)))

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "GraphEnhancement":
        """The graph from a state dict: its own, a `TextureHead`'s, or that of a network that contains one.

        Raises:
            ValueError: it contains no graph, several graphs, or tensors that do not fit together.
        """
        mark = "texture_settings"
        prefixes = [name.removesuffix(mark) for name in state if name.rpartition(".")[2] == mark]
        if len(prefixes) != 1:
            raise ValueError(
                f"{len(prefixes)} trained texture graphs among {len(state)} tensors; one is needed. {HOW_TO_TRAIN}."
            )
        own = {name.removeprefix(prefixes[0]): t for name, t in state.items() if name.startswith(prefixes[0])}
        first, second = own.get("embed.0.weight"), own.get("embed.2.weight")
        if first is None or second is None:
            raise ValueError(f"the texture graph is not complete: it has {', '.join(sorted(own))}")
        graph = cls(second.shape[0], first.shape[0]).to(first.dtype)
        try:
            graph.load_state_dict(own)
        except RuntimeError as error:
            raise ValueError(f"the texture graph does not fit: {error}") from error
        return graph

    def trained(self) -> bool:
        """Whether it has ever run in train mode: its normalisation counts the batches."""
        batches = self.norm.num_batches_tracked
        return batches is not None and int(batches) > 0

    def remember(self, settings: Sequence[float | None]) -> None:
        """Store the quantisation used in training, in the order of SETTINGS; None is stored as 0."""
        self.texture_settings.copy_(torch.tensor([value or 0.0 for value in settings]))

    def check(self, settings: Sequence[float | None]) -> None:
        """Check that the graph is trained, and with this quantisation; None counts as 0.

        Raises:
            ValueError: it is untrained or was trained with another quantisation.
        """
        if not self.trained():
            raise ValueError(f"the texture graph has random weights. {HOW_TO_TRAIN}.")
        asked = self.texture_settings.new_tensor([value or 0.0 for value in settings])
        same = torch.isclose(self.texture_settings, asked, rtol=1e-2).tolist()  # half precision may have rounded them
        if not all(same):
            pairs = zip(SETTINGS, self.texture_settings.tolist(), asked.tolist(), same, strict=True)
            text = ", ".join(f"{name} {before:g}, not {now:g}" for name, before, now, fits in pairs if not fits)
            raise ValueError(f"the texture graph was trained with {text}: use the same quantisation, or train it anew")

    def forward(self, levels: Tensor, share: Tensor) -> Tensor:
        """Levels and shares (..., N) each, sums of shares 1, to vectors (..., N, D) in the dtype of the weights."""
        pair = torch.stack((levels, share * share.shape[-1]), -1).to(self.out.weight.dtype)
        e = self.embed(pair)
        graph = (self.k(e) @ self.q(e).mT).softmax(-1)
        related = self.out(graph @ self.v(e))
        vectors: Tensor = self.norm(related.flatten(0, -2)).relu().view(related.shape)
        return vectors
