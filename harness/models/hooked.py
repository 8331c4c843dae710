"""A network that is not built of an encoder, a decoder and a head: its maps are read where they arise, by hooks."""

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from harness.experiment.meanings import nearest
from harness.experiment.network_rules import STAGE, stage_order
from harness.models.scores import require_maps, scores_of, trained
from harness.models.tapnet import TapNet
from harness.taps import Taps

ENCODERS = ("encoder", "backbone")
"""What the encoder of a network from outside is called."""


class Kept(dict[str, list[Any]]):
    """What hooks have kept, by name. `torch.export` replaces a plain dict of a network by a copy, which none fills."""


class Keep:
    """A forward hook that keeps what a module gives, for the network around it.

    It is copied and pickled with the network, whose mapping it then fills; a closure would fill the first network's.

    Args:
        maps: of the network; each call appends to the list under `name`.
        name: of the tap.
        incoming: keep the module's first argument instead of its output.
    """

    def __init__(self, maps: Kept, name: str, incoming: bool = False) -> None:
        self._maps, self._name, self._incoming = maps, name, incoming

    def __call__(self, module: nn.Module, given: Any, output: Any) -> None:
        """Called by torch after the module's forward."""
        kept = (given[0] if given else None) if self._incoming else output
        self._maps.setdefault(self._name, []).append(kept)


class HookedNet(TapNet):
    """A network whose maps are the outputs of some of its modules; `full` is its own output, resized if it is smaller.

    Args:
        network: any module from images to class scores: a tensor (N, K, h, w), a mapping with "out" or "logits", or an
            object with `.logits`. Of several maps in a list, tuple or mapping, the scores are the one that is what the
            tap `logits` gives, resized or not (`harness.models.scores`); those of an auxiliary head are not used.
        taps: paths of modules by name of tap (`stage1`, ..., `logits`, `decoder`), as in `named_modules()`. `logits` is
            the classifier; `decoder`, by default, the map that goes into it. Without `logits` it is the network's
            output, and `decoder` is needed.
        multiple: height and width that the network takes are multiples of it.
        encoder: path of the module that `encoder_weights` are for.
        classes: number of classes, K; None where it is not to be checked.

    Raises:
        ValueError: there is no such module.
    """

    def __init__(
        self,
        network: nn.Module,
        taps: Mapping[str, str],
        multiple: int = 1,
        encoder: str | None = None,
        classes: int | None = None,
    ) -> None:
        super().__init__(multiple)
        self.network, self._encoder, self._classes = network, encoder, classes
        self._maps = Kept()
        self._named = dict(sorted(taps.items(), key=lambda item: stage_order(item[0])))
        modules = dict(network.named_modules())
        for name, path in self._named.items():
            if path not in modules or not path:
                raise ValueError(
                    f"taps.{name}: the network has no module {path!r}.{nearest(path, list(filter(None, modules)))} Its "
                    f"outermost modules: {', '.join(name for name, _ in network.named_children())}"
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
        logits = maps.pop("logits", None)
        full = scores_of(output, logits, self._classes, self.chosen)
        logits = full if logits is None else logits
        decoder = maps.pop("decoder", None)
        if decoder is None:
            raise ValueError("taps: `logits` or `decoder` is needed: the classifier, or the module before it")
        if full.shape[-2:] != image.shape[-2:]:
            full = F.interpolate(full, size=image.shape[-2:], mode="bilinear", align_corners=False)
        return Taps(maps, decoder, logits, full)

    def tried(self, image: Tensor) -> Taps:
        """See `TapNet.tried`. A network from outside is looked at in both modes, since its outputs may differ.

        Raises:
            ValueError: a map is changed in place after the tap, is no map of the image, or does not affect the scores.
        """
        if self._classes is not None:
            # A teacher need not run in train mode; a student that does not says why in its first step.
            with contextlib.suppress(Exception), trained(self.network):
                self.taps(image, auxiliary=True)
        versions: dict[str, int] = {}
        handles = [
            self.network.get_submodule(path).register_forward_hook(_noting(versions, name))
            for name, path in self._named.items()
        ]
        try:
            found = super().tried(image)
        finally:
            for handle in handles:
                handle.remove()
        maps = {**found.stages, "decoder": found.decoder, "logits": found.logits}
        for name, version in versions.items():
            if maps[name]._version != version:
                raise ValueError(
                    f"taps.{name}: what the module {self._named[name]!r} gives is changed in place after it, as "
                    "by an activation with inplace=True, so that it is not the tap. Name the module that changes it"
                )
        if self._classes is not None:
            require_maps(found, self._classes, "taps.")
        return found

    def saved_state(self) -> dict[str, Tensor]:
        """See `TapNet.saved_state`."""
        return self.network.state_dict()

    def loaded_encoder(self) -> nn.Module:
        """See `TapNet.loaded_encoder`."""
        return _encoder(self.network) if self._encoder is None else self.network.get_submodule(self._encoder)

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


def _noting(versions: dict[str, int], name: str) -> Callable[..., None]:
    """A hook that notes how often a module's output has been changed in place."""

    def note(module: nn.Module, given: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            versions[name] = output._version

    return note


class TappedNet(TapNet):
    """A network whose forward returns `Taps` itself; scores of an auxiliary head are not used.

    Args:
        network: images (N, 3, H, W) to `harness.Taps`.
        multiple: height and width that the network takes are multiples of it.
        classes: number of classes.
    """

    def __init__(self, network: nn.Module, multiple: int, classes: int) -> None:
        super().__init__(multiple)
        self.network, self._classes = network, classes

    def taps(self, image: Tensor, auxiliary: bool) -> Taps:
        """See `TapNet.taps`.

        Raises:
            ValueError: the forward returns something else, `full` has not the image's size, or `stages` is no mapping
                of maps by name.
        """
        found = self.network(image)
        if not isinstance(found, Taps):
            raise ValueError(
                f"the network's forward returns {type(found).__name__}. Return harness.Taps, or name its modules in "
                "the file: taps: {stage1: PATH, ..., logits: PATH}"
            )
        if found.full.shape[-2:] != image.shape[-2:]:
            raise ValueError(
                f"Taps.full is {tuple(found.full.shape)} for an image of {tuple(image.shape[-2:])}; give the class "
                "scores at the image's size (F.interpolate)"
            )
        named = isinstance(found.stages, Mapping) and all(
            re.fullmatch(STAGE, str(name)) and isinstance(x, Tensor) for name, x in found.stages.items()
        )
        if not named or not found.stages:
            raise ValueError(
                "Taps.stages is a mapping of maps by name: stem, stage1 (shallow) to stage9 (deep), of which there is "
                f"at least one; it is {_said(found.stages)}"
            )
        stages = dict(sorted(found.stages.items(), key=lambda item: stage_order(item[0])))
        return replace(found, stages=stages, aux=None)

    def tried(self, image: Tensor) -> Taps:
        """See `TapNet.tried`.

        Raises:
            ValueError: a map is no map of the image, or does not affect the scores.
        """
        found = super().tried(image)
        require_maps(found, self._classes, "Taps.")
        return found

    def saved_state(self) -> dict[str, Tensor]:
        """See `TapNet.saved_state`."""
        return self.network.state_dict()

    def loaded_encoder(self) -> nn.Module:
        """See `TapNet.loaded_encoder`."""
        return _encoder(self.network)


def _encoder(network: nn.Module) -> nn.Module:
    """The part of a network from outside that `encoder_weights` are for.

    Raises:
        ValueError: there is none.
    """
    parts = dict(network.named_children())
    found = next((parts[name] for name in ENCODERS if name in parts), None)
    if found is None:
        raise ValueError(
            "the network has no part `encoder` or `backbone`, which these weights are for; it has "
            f"{', '.join(parts)}. Call it so, or give a teacher's weights as a checkpoint"
        )
    return found


def _said(stages: Any) -> str:
    return ", ".join(map(str, stages)) if isinstance(stages, Mapping) and stages else type(stages).__name__
