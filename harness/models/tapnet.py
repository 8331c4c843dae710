"""A network that gives its taps: pads the image to a size the network takes, crops the maps back, knows its widths."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.taps import NetworkInfo, TapInfo, Taps

DRY_SIDE = 128
"""Image side of dry runs, or the next one that the network takes: PAN pools its deepest map three times, and needs 8
positions there."""


class TapNet(nn.Module):
    """A segmentation network that gives its taps.

    If the input's size is not a multiple of `multiple`, it is padded at the bottom and right by its border values.
    `full` is cropped back, and every other tap to the cells that cover the image, so that networks with different
    padding give maps of the same area.

    Args:
        multiple: height and width that the network takes are multiples of it.
    """

    def __init__(self, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple
        self._info: NetworkInfo | None = None
        self.chosen: dict[tuple[str, ...], str] = {}
        """Which of several outputs the class scores are, by the outputs' names; found by `tried`."""

    def taps(self, image: Tensor, auxiliary: bool) -> Taps:
        """Taps of images (N, 3, H, W) whose sides are multiples of `multiple`.

        Args:
            image: the images.
            auxiliary: also the class scores of an auxiliary head, if there is one.
        """
        raise NotImplementedError

    def auxiliary_head(self) -> nn.Module | None:
        """The head of `Taps.aux`; None for a network without one."""
        return None

    def saved_state(self) -> dict[str, Tensor]:
        """The state that is saved, by the names that the network has without its taps, as its library writes them."""
        return self.state_dict()

    def read_state(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A file's state by the names here, where the network's library has a conversion of its own."""
        return state

    def loaded_encoder(self) -> nn.Module:
        """The part that `encoder_weights` are for.

        Raises:
            ValueError: there is none.
        """
        raise ValueError("this network has no encoder of its own; give its weights as a checkpoint")

    def forward(self, image: Tensor) -> Taps:
        """Image (N, 3, H, W) to its taps; in train mode those of an auxiliary head too, unless it is frozen.

        Raises:
            ValueError: not a batch of RGB images, or the head's output does not have the image's size.
        """
        if image.ndim != 4 or image.shape[1] != 3:
            raise ValueError(f"a batch of RGB images is (N, 3, H, W); given {tuple(image.shape)}")
        height, width = image.shape[-2:]
        bottom, right = -height % self.multiple, -width % self.multiple
        if bottom or right:
            image = F.pad(image, (0, right, 0, bottom), mode="replicate")
        found, padded = self.checked_taps(image, self._trains_auxiliary()), image.shape[-2:]
        if not (bottom or right):
            return found

        def crop(x: Tensor) -> Tensor:
            return x[..., : -(-height * x.shape[-2] // padded[0]), : -(-width * x.shape[-1] // padded[1])]

        stages = {name: crop(x) for name, x in found.stages.items()}
        aux = None if found.aux is None else crop(found.aux)
        return Taps(stages, crop(found.decoder), crop(found.logits), crop(found.full), aux)

    def checked_taps(self, image: Tensor, auxiliary: bool) -> Taps:
        """As `taps`.

        Raises:
            ValueError: the head's output does not have the image's size.
        """
        found = self.taps(image, auxiliary)
        if found.full.shape[-2:] != image.shape[-2:]:
            raise ValueError(
                f"the head gives {tuple(found.full.shape[-2:])} for an image of {tuple(image.shape[-2:])}; correct "
                "`upsampling` or `encoder_depth` in the network's parameters"
            )
        return found

    def tried(self, image: Tensor) -> Taps:
        """As `checked_taps`, in eval mode and with a gradient, once after the network is built.

        Raises:
            ValueError: what it gives are not the taps that it should give.
        """
        return self.checked_taps(image, auxiliary=True)

    def _trains_auxiliary(self) -> bool:
        head = self.auxiliary_head()
        return head is not None and self.training and any(p.requires_grad for p in head.parameters())

    @torch.no_grad()
    def info(self) -> NetworkInfo:
        """Widths and strides of all taps, from a dry run in eval mode or from the one that `build` made."""
        if self._info is None:
            training = self.training
            self._info = described(self.eval()(self.dry_image()))
            self.train(training)
        return self._info

    def dry_image(self) -> Tensor:
        """An image of zeros that the network takes as it is, of the type and on the device of its parameters."""
        side = -(-DRY_SIDE // self.multiple) * self.multiple
        like = next((p for p in self.parameters() if p.is_floating_point()), torch.empty(0))
        return torch.zeros(1, 3, side, side, device=like.device, dtype=like.dtype)


def described(taps: Taps) -> NetworkInfo:
    """Widths and strides of the taps of one image."""
    side = taps.full.shape[2]

    def tap(x: Tensor) -> TapInfo:
        return TapInfo(channels=x.shape[1], stride=round(side / x.shape[2]))

    return NetworkInfo({name: tap(x) for name, x in taps.stages.items()}, tap(taps.decoder), tap(taps.logits))


def dry_run(network: TapNet) -> tuple[NetworkInfo, frozenset[str]]:
    """The network's `info`, and the names of parameters without a gradient.

    From one forward and backward pass in eval mode, which changes no statistics.

    Raises:
        ValueError: the class scores have no gradient.
    """
    network.eval()
    taps = network.tried(network.dry_image())
    scores = taps.full.sum() + (0.0 if taps.aux is None else taps.aux.sum())
    if not scores.requires_grad:
        raise ValueError(
            "its class scores have no gradient. Let its forward do without torch.no_grad, detach and argmax; "
            "parameters that are not to be trained have requires_grad=False"
        )
    scores.backward()  # type: ignore[no-untyped-call]
    unused = frozenset(name for name, parameter in network.named_parameters() if parameter.grad is None)
    network.zero_grad()
    network.train()
    return described(taps), unused
