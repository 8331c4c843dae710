"""An embedding of the low-level feature before CDM or DTIEM, with weights trained with a teacher.

    E(f) = ReLU(BN(W_2 ReLU(BN(W_1 f))))    W_1: 1x1 from C to D channels, W_2: 3x3 from D to D, both without bias

Published for the modules of Ji et al. (CVPR 2022, arXiv 2305.03944) are 1.24 M and 2.80 M parameters, with 10.9 G and
23.73 G MACs at 512 x 1024 (V2): 8.8 and 8.5 thousand per parameter, a little more than the 8,192 positions of
a map of stride 8. So nearly all parameters are convolutions on that map (computed, C), and the modules embed the
feature (inferred, I); the transforms themselves have none. Which layers they are is not known: those above are this
project's (decided, D), and `WIDTHS` gives them the published sizes for 768 channels, stages 1 and 2 of a ResNet-101.

The weights are trained with the teacher (`sstkd.TextureHead`), then frozen and the same for student and teacher:
nothing that the distillation trains is applied to the teacher's feature.
"""

import copy
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sstkd.quantize import whole

Part = Literal["structural", "statistical"]
WIDTHS: dict[Part, int] = {"structural": 331, "statistical": 517}
HOW_TO_TRAIN_AN_EMBEDDING = (
    "Train the teacher with sstkd.TextureHead(channels, classes, structural_embedding=331, statistical_embedding=517) "
    "on the features that will be distilled, adding the cross-entropy of the head's scores to the teacher's loss; save "
    "head.state_dict()"
)


class TextureEmbedding(nn.Module):
    """Features (N, C, H, W) to (N, D, H, W) by the equation above.

    Args:
        channels: C.
        width: D.

    Raises:
        ValueError: a value is not an integer or below 1.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        if not whole(channels, width) or channels < 1 or width < 1:
            raise ValueError(f"channels is {channels}, width {width}; integers, at least 1, are needed")
        self.channels, self.width, self.fixed = channels, width, False
        self.first = nn.Conv2d(channels, width, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor], part: Part) -> "TextureEmbedding | None":
        """The embedding of a term from the state dict of a `TextureHead`, or of a network that contains one.

        Returns:
            None if the state has no embedding for this term.

        Raises:
            ValueError: an unknown term, several embeddings for it, or tensors that do not fit together.
        """
        if part not in get_args(Part):
            raise ValueError(f"part is {part!r}; allowed: {', '.join(map(repr, get_args(Part)))}")
        mark = f"{part}_embedding.first.weight"
        found = [name for name in state if name == mark or name.endswith(f".{mark}")]
        if not found:
            return None
        if len(found) > 1:
            raise ValueError(
                f"{len(found)} {part} embeddings among {len(state)} tensors ({', '.join(found)}); one is needed"
            )
        prefix = found[0].removesuffix("first.weight")
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        weight = own["first.weight"]
        if weight.ndim != 4:
            raise ValueError(f"the {part} embedding does not fit: {found[0]} has shape {tuple(weight.shape)}")
        made = cls(weight.shape[1], weight.shape[0]).to(weight.dtype)
        try:
            made.load_state_dict(own)
        except RuntimeError as error:
            raise ValueError(f"the {part} embedding does not fit: {error}") from error
        return made

    def frozen(self) -> "TextureEmbedding":
        """A copy without gradients for its weights, in eval mode whatever mode it is set to.

        Raises:
            ValueError: it was never run in train mode, so its weights are random.
        """
        batches = self.first_norm.num_batches_tracked
        if batches is None or not int(batches):
            raise ValueError(f"the embedding has random weights. {HOW_TO_TRAIN_AN_EMBEDDING}.")
        made = copy.deepcopy(self).requires_grad_(False)
        made.fixed = True
        return made.eval()

    def train(self, mode: bool = True) -> "TextureEmbedding":
        """Set the module's mode; a frozen one stays in eval mode."""
        super().train(mode and not self.fixed)
        return self

    def forward(self, features: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, D, H, W), in the precision of the weights; autocast is off.

        Raises:
            ValueError: the features are not (N, C, H, W).
        """
        if features.ndim != 4 or features.shape[1] != self.channels:
            raise ValueError(f"features must be (N, {self.channels}, H, W), got {tuple(features.shape)}")
        with torch.autocast(features.device.type, enabled=False):
            x = self.first_norm(self.first(features.to(self.first.weight.dtype))).relu()
            embedded: Tensor = self.second_norm(self.second(x)).relu()
            return embedded
