"""A network that is not built of an encoder, a decoder and a head: its maps are read where they arise, by hooks."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from harness.experiment.method import nearest
from harness.experiment.network_rules import stage_order
from harness.models.tapnet import TapNet
from harness.taps import Taps


class Keep:
    """A forward hook that keeps what a module gives, for the network around it.

    It is copied and pickled with the network, whose mapping it then fills; a closure would fill the first network's.

    Args:
        maps: of the network; each call appends to the list under `name`.
        name: of the tap.
        incoming: keep the module's first argument instead of its output.
    """

    def __init__(self, maps: dict[str, list[Any]], name: str, incoming: bool = False) -> None:
        self._maps, self._name, self._incoming = maps, name, incoming

    def __call__(self, module: nn.Module, given: Any, output: Any) -> None:
        """Called by torch after the module's forward."""
        kept = (given[0] if given else None) if self._incoming else output
        self._maps.setdefault(self._name, []).append(kept)


class HookedNet(TapNet):
    """A network whose maps are the outputs of some of its modules; `full` is its own output, resized if it is smaller.

    Args:
        network: any module from images to class scores: a tensor (N, K, h, w), a mapping with "out" or "logits", or an
            object with `.logits`. Scores of an auxiliary head are not used.
        taps: paths of modules by name of tap (`stage1`, ..., `logits`, `decoder`), as in `named_modules()`. `logits` is
            the classifier; `decoder`, by default, the map that goes into it. Without `logits` it is the network's
            output, and `decoder` is needed.
        multiple: height and width that the network takes are multiples of it.
        encoder: path of the module that `encoder_weights` are for.

    Raises:
        ValueError: there is no such module.
    """

    def __init__(
        self, network: nn.Module, taps: Mapping[str, str], multiple: int = 1, encoder: str | None = None
    ) -> None:
        super().__init__(multiple)
        self.network, self._encoder = network, encoder
        self._maps: dict[str, list[Any]] = {}
        self._named = dict(sorted(taps.items(), key=lambda item: stage_order(item[0])))
        modules = dict(network.named_modules())
        for name, path in self._named.items():
            if path not in modules or not path:
                raise ValueError(
                    f"taps.{name}: the network has no module {path!r}.{nearest(path, list(modules))} Its outermost "
                    f"modules: {', '.join(name for name, _ in network.named_children())}"
                )
            modules[path].register_forward_hook(Keep(self._maps, name))
        if "logits" in self._named and "decoder" not in self._named:
            modules[self._named["logits"]].register_forward_hook(Keep(self._maps, "decoder", incoming=True))

    def taps(self, image: Tensor, auxiliary: bool) -> Taps:
        """See `TapNet.taps`.

        Raises:
            ValueError: a module gives no map, or is not called once.
        """
        self._maps.clear()
        try:
            output = self.network(image)
            maps = {name: self._one(name) for name in {**self._named, **dict.fromkeys(self._maps)}}
        finally:
            self._maps.clear()
        full = _scores(output)
        logits = maps.pop("logits", full)
        decoder = maps.pop("decoder", None)
        if decoder is None:
            raise ValueError("taps: `logits` or `decoder` is needed: the classifier, or the module before it")
        if full.shape[-2:] != image.shape[-2:]:
            full = F.interpolate(full, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return Taps(maps, decoder, logits, full)

    def saved_state(self) -> dict[str, Tensor]:
        """See `TapNet.saved_state`."""
        return self.network.state_dict()

    def loaded_encoder(self) -> nn.Module:
        """See `TapNet.loaded_encoder`."""
        return super().loaded_encoder() if self._encoder is None else self.network.get_submodule(self._encoder)

    def _one(self, name: str) -> Tensor:
        """The one map that a module gave."""
        found = self._maps.get(name, [])
        where = f"taps.{name}: the module {self._named.get(name, self._named.get('logits'))!r}"
        if len(found) != 1:
            raise ValueError(f"{where} is called {len(found)} times in a forward pass; name one that is called once")
        if not isinstance(found[0], Tensor) or found[0].ndim != 4:
            given = tuple(found[0].shape) if isinstance(found[0], Tensor) else type(found[0]).__name__
            raise ValueError(
                f"{where} gives {given}; a tap is a map (N, C, H, W). Name another module, or let the network's "
                "forward return harness.Taps"
            )
        return found[0]


class TappedNet(TapNet):
    """A network whose forward returns `Taps` itself; scores of an auxiliary head are not used.

    Args:
        network: images (N, 3, H, W) to `harness.Taps`.
        multiple: height and width that the network takes are multiples of it.
    """

    def __init__(self, network: nn.Module, multiple: int = 1) -> None:
        super().__init__(multiple)
        self.network = network

    def taps(self, image: Tensor, auxiliary: bool) -> Taps:
        """See `TapNet.taps`.

        Raises:
            ValueError: the forward returns something else.
        """
        found = self.network(image)
        if not isinstance(found, Taps):
            raise ValueError(
                f"the network's forward returns {type(found).__name__}. Return harness.Taps, or name its modules in "
                "the file: taps: {stage1: PATH, ..., logits: PATH}"
            )
        return replace(found, aux=None)

    def saved_state(self) -> dict[str, Tensor]:
        """See `TapNet.saved_state`."""
        return self.network.state_dict()


def _scores(output: Any) -> Tensor:
    """The class scores in what a network returns.

    Raises:
        ValueError: there are none.
    """
    if isinstance(output, Mapping):
        output = output.get("out", output.get("logits"))
    elif hasattr(output, "logits"):
        output = output.logits
    elif isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim != 4:
        given = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"the network returns {given}; it returns class scores (N, K, h, w), a mapping with `out` or `logits`, or "
            "harness.Taps"
        )
    return output
