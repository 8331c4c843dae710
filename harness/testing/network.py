"""What a network of one's own owes, checked and said in one screen: `check_network({"architecture": "a:Net", ...})`."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.distillers import METHODS
from harness.experiment.spec import Network
from harness.models import TapNet, build, load_into, load_state, save_state
from harness.models.outside import plain, said
from harness.models.scores import scores_of
from harness.taps import NetworkInfo, Pair, TapInfo, Taps
from harness.testing.case import require

SIZE = (100, 136)
"""Sides of the images, which few networks take as they are."""


def check_network(network: Network | Mapping[str, Any], /, *, num_classes: int = 7) -> str:
    """Check a network as an experiment file describes it, on the CPU and with random weights.

    Args:
        network: the mapping under `student:` or `teacher:`.
        num_classes: number of classes to build it with.

    Returns:
        What fits, a line each: its taps with widths and strides, parameters, and which methods apply to a pair of it.

    Raises:
        AssertionError: the first property that does not hold, and how to fix it.
        ValueError: it cannot be built.

    Example:
        >>> print(check_network({"architecture": "lraspp", "encoder": "mobilenet_v3_large"}))
    """
    spec = network if isinstance(network, Network) else Network.model_validate_json(json.dumps(dict(network)))
    built = build(spec, num_classes, seed=0)
    for check in _CHECKS:
        try:
            check(spec, built, num_classes)
        except Exception as error:  # whatever the network's own code raises
            if isinstance(error, AssertionError | ValueError):
                raise
            raise AssertionError(
                f"it fails on images of {SIZE[0]}x{SIZE[1]}, padded to multiples of {built.multiple}: {said(error)}. "
                "Let it take images of any size that is a multiple of input.multiple"
            ) from error
    return "\n".join(_described(spec, built, num_classes))


def _image(count: int = 2) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def _shapes(spec: Network, built: TapNet, classes: int) -> None:
    """Scores at the image's size, maps of the widths and strides that `info` says, in both modes."""
    info = built.info()
    require(
        info.logits.channels == classes, f"`logits` has {info.logits.channels} channels, not {classes}: one per class"
    )
    for training in (True, False):
        with torch.no_grad():
            found = built.train(training)(_image())
        require(
            found.full.shape == (2, classes, *SIZE), f"`full` is {tuple(found.full.shape)}, not {(2, classes, *SIZE)}"
        )
        require(bool(found.full.isfinite().all()), "`full` has values that are not finite")
        total = found.full.sum(1)
        shares = bool((found.full >= 0).all()) and torch.allclose(total, torch.ones_like(total), atol=1e-4)
        require(not shares, "`full` has probabilities; give the scores before the softmax, which the losses apply")
        for name, x, tap in _taps(found, info):
            require(x.ndim == 4 and x.shape[:2] == (2, tap.channels), f"`{name}` is {tuple(x.shape)}; {_MAP}")
            require(x.shape[2] <= x.shape[3], f"`{name}` is {tuple(x.shape)} for an image of {SIZE}; {_MAP}")
            require(bool(x.isfinite().all()), f"`{name}` has values that are not finite")


def _same_twice(spec: Network, built: TapNet, classes: int) -> None:
    """In eval mode the same image gives the same scores, whatever is beside it in the batch."""
    image = _image()
    still = [name for name, module in built.eval().named_modules() if module.training]
    require(not still, f"in eval mode the module {still and still[0]!r} is in train mode: its train() ignores `mode`")
    with torch.no_grad():
        both, again = built.eval()(image).full, built(image).full
        alone = built(image[:1]).full
    require(torch.equal(both, again), "in eval mode two passes differ: something random is left on. Ask self.training")
    close = torch.allclose(both[:1], alone, rtol=1e-3, atol=1e-4)
    require(close, "in eval mode the scores of an image depend on the others in its batch")


def _as_without_taps(spec: Network, built: TapNet, classes: int) -> None:
    """The scores are bit for bit those of the network by itself, with its weights from a file."""
    if ":" not in spec.architecture or spec.taps is None:
        return
    network = plain(spec, classes)
    load_into(network, _through_a_file(built), spec.architecture)
    image = built.dry_image() + 0.5
    with torch.no_grad():
        expected, found = scores_of(network.eval()(image), None, classes, built.chosen), built.eval()(image).full
    if expected.shape[-2:] != found.shape[-2:]:
        expected = F.interpolate(expected, size=found.shape[-2:], mode="bilinear", align_corners=False)
    require(torch.equal(found, expected), "its scores are not those of the network without taps")


def _gradients(spec: Network, built: TapNet, classes: int) -> None:
    """Every trained parameter gets a gradient, or DistributedDataParallel waits for it."""
    label = torch.randint(classes, (2, *SIZE), generator=torch.Generator().manual_seed(1))
    built.train()(_image())  # a pass before, as in training: what is made at the first one is there
    found = built(_image())
    F.cross_entropy(found.full, label).backward()  # type: ignore[no-untyped-call]
    idle = [name for name, p in built.named_parameters() if p.requires_grad and p.grad is None]
    built.zero_grad()
    require(
        not idle,
        f"{len(idle)} trained parameters get no gradient in train mode (first: {', '.join(idle[:3])}). Use them, or "
        "set requires_grad=False",
    )


def _seeded(spec: Network, built: TapNet, classes: int) -> None:
    """Its initial weights follow from the seed, or the methods of a comparison would not start from the same."""
    first, second = (build(spec, classes, seed=1).state_dict() for _ in range(2))
    other = [name for name, value in first.items() if not torch.equal(value, second[name])]
    require(
        not other,
        f"with the same seed it starts from other weights each time (first: {', '.join(other[:3])}): draw them from "
        "torch's own generator",
    )


def _moves(spec: Network, built: TapNet, classes: int) -> None:
    """All of it moves to another device with it."""
    moved = copy.deepcopy(built).eval().to("meta")
    try:
        with torch.no_grad():
            moved(_image().to("meta"))
    except NotImplementedError:  # a RuntimeError, too
        return  # an operation that needs the numbers
    except RuntimeError as error:
        require("device" not in str(error), f"it does not move to another device: {said(error)}. {_BUFFER}")


def _reloaded(spec: Network, built: TapNet, classes: int) -> None:
    """Weights that a run saves go into the network again, as those of a teacher or for `predict`."""
    other = build(spec, classes, seed=1)
    load_into(other, _through_a_file(built), spec.architecture)
    image = built.dry_image() + 0.5
    with torch.no_grad():
        same = torch.equal(built.eval()(image).full, other.eval()(image).full)
    require(same, "its scores are others after its weights are saved and loaded: keep what they depend on in its state")


def _through_a_file(built: TapNet) -> dict[str, Tensor]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        return load_state(path, save_state(built.saved_state(), path))


_BUFFER = "Keep its tensors as parameters or buffers (register_buffer)"
_MAP = "a map (N, C, H, W)"
_CHECKS: tuple[Callable[[Network, TapNet, int], None], ...] = (
    _shapes,
    _same_twice,
    _seeded,
    _reloaded,
    _as_without_taps,
    _gradients,
    _moves,
)


def _fixed(spec: Network, classes: int) -> list[str]:
    """Parameters that are neither drawn nor constant."""
    first, second = (_parameters(spec, classes, seed) for seed in (0, 1))
    return [name for name, x in first.items() if torch.equal(x, second[name]) and x.numel() and x.min() < x.max()]


def _parameters(spec: Network, classes: int, seed: int) -> dict[str, Tensor]:
    """Parameters of a network from outside as built with a seed; none of one by name."""
    if ":" not in spec.architecture:
        return {}
    return {name.removeprefix("network."): p for name, p in build(spec, classes, seed).named_parameters()}


def _taps(found: Taps, info: NetworkInfo) -> Iterator[tuple[str, Tensor, TapInfo]]:
    for name, tap in info.stages.items():
        yield name, found.stages[name], tap
    yield "decoder", found.decoder, info.decoder
    yield "logits", found.logits, info.logits


def _described(spec: Network, built: TapNet, classes: int) -> Iterator[str]:
    info = built.info()
    trained = sum(p.numel() for p in built.parameters() if p.requires_grad)
    frozen = [name for name, p in built.named_parameters() if not p.requires_grad]
    yield f"{spec.architecture}: {trained:,} trained parameters" + (
        f"; {len(frozen)} tensors that do not affect the scores are frozen" if frozen else ""
    )
    if fixed := _fixed(spec, classes):
        yield f"{len(fixed)} tensors begin with the same values for every seed ({', '.join(fixed[:3])})"
    yield f"sides: multiples of {built.multiple}; others are padded and cropped"
    for name, tap in (*info.stages.items(), ("decoder", info.decoder), ("logits", info.logits)):
        yield f"{name:10} {tap.channels:5} channels  stride {tap.stride}"
    reasons = {name: kind.skip(Pair(info, info, classes)) for name, kind in METHODS.items()}
    yield "methods that apply to two of it: " + ", ".join(name for name, reason in reasons.items() if reason is None)
    yield from (f"not {name}: {reason}" for name, reason in reasons.items() if reason is not None)
