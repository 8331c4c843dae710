"""`train.deterministic`: no operation that adds in another order each time on a GPU, and the same values as without.

There need be no GPU: the operations that torch has no deterministic form for on CUDA are known by name
(`torch.use_deterministic_algorithms`), and those that a step calls are recorded.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.distillers import METHODS
from harness.experiment.recipe import LossTerm, Train, without_defaults_of_added_keys
from harness.experiment.spec import Network, Resources
from harness.models import build
from harness.results import paths, store
from harness.taps import View
from harness.testing.made_up import MAIN, labels, net
from harness.training.deterministic import REPLACED, in_fixed_order
from harness.training.estimate import _time
from harness.training.precision import set_backend
from harness.training.task_loss import TaskLoss
from tests.support import tiny

UNORDERED = {
    "_adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d_backward",
    "avg_pool3d_backward",
    "fractional_max_pool2d_backward",
    "max_unpool2d",
    "upsample_bicubic2d_backward",
    "upsample_linear1d_backward",
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "nll_loss2d_forward",
    "nll_loss2d_backward",
    "embedding_bag",
    "put_",
    "histc",
    "median.dim",
    "grid_sampler_2d_backward",
    "cumsum_backward",
}
"""What torch refuses on CUDA. `upsample_bilinear2d` is not among them: `F.interpolate` replaces it there by itself."""
ON = Train(steps=1, batch_size=2, deterministic=True)


class Recorded(TorchDispatchMode):
    """The names of the operations that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names = set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names |= {func.overloadpacket.__name__, func.__name__}
        return func(*args, **kwargs or {})


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("size", [(12, 12), (9, 14), (5, 4)])
@pytest.mark.parametrize("out", [1, 2, 3, (6, 4), (None, 3)])
@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_bins_have_the_same_means_and_gradients(size: tuple[int, int], out: Any, kind: torch.dtype) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(kind)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    plain = F.adaptive_avg_pool2d(one, out)
    with in_fixed_order(ON), Recorded() as seen:
        fixed = F.adaptive_avg_pool2d(other, out)
        weight = torch.linspace(-1, 1, plain.numel(), dtype=kind).view_as(plain)
        backward((fixed * weight).sum())
    backward((plain * weight).sum())
    bound = 1e-12 if kind is torch.float64 else 1e-2
    assert fixed.dtype is plain.dtype and not seen.names & UNORDERED
    torch.testing.assert_close(fixed, plain, atol=bound, rtol=bound)
    torch.testing.assert_close(other.grad, one.grad, atol=bound, rtol=bound)


def test_single_maps_are_pooled_too() -> None:
    x = torch.randn(3, 8, 6, generator=torch.Generator().manual_seed(0))
    with in_fixed_order(ON):
        found = F.adaptive_avg_pool2d(x, (3, 2))
    torch.testing.assert_close(found, F.adaptive_avg_pool2d(x, (3, 2)))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"weight": torch.tensor([0.5, 1.0, 2.0, 1.0])}])
def test_cross_entropy_has_the_same_values_and_gradients(reduction: str, options: dict[str, Any]) -> None:
    stream = torch.Generator().manual_seed(0)
    scores, label = torch.randn(2, 4, 5, 6, generator=stream), torch.randint(4, (2, 5, 6), generator=stream)
    label[0, :2] = 255
    one, other = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    plain = F.cross_entropy(one, label, ignore_index=255, reduction=reduction, **options)
    with in_fixed_order(ON), Recorded() as seen:
        fixed = F.cross_entropy(other, label, ignore_index=255, reduction=reduction, **options)
        backward(fixed.sum())
    backward(plain.sum())
    assert not seen.names & UNORDERED
    torch.testing.assert_close(fixed, plain)
    torch.testing.assert_close(other.grad, one.grad)
    with in_fixed_order(ON):
        log = F.nll_loss(scores.log_softmax(1), label, ignore_index=255, reduction=reduction)
    torch.testing.assert_close(log, F.nll_loss(scores.log_softmax(1), label, ignore_index=255, reduction=reduction))


def test_probabilities_as_labels_are_left_alone() -> None:
    scores, wanted = torch.randn(2, 4, 5, 6), torch.rand(2, 4, 5, 6)
    with in_fixed_order(ON):
        found = F.cross_entropy(scores, wanted)
    assert torch.equal(found, F.cross_entropy(scores, wanted))


def test_without_the_key_nothing_is_replaced() -> None:
    """So that the operations are those of rows without it; the test of operations sees what it would miss."""
    scores = torch.randn(2, 4, 5, 6, requires_grad=True)
    with in_fixed_order(Train(steps=1, batch_size=2)), Recorded() as seen:
        backward(F.cross_entropy(scores, torch.zeros(2, 5, 6, dtype=torch.int64)))
    assert {"nll_loss2d_forward", "nll_loss2d_backward"} <= seen.names
    assert set(REPLACED) == {F.adaptive_avg_pool2d, F.cross_entropy, F.nll_loss}


@pytest.mark.parametrize("name", METHODS)
def test_no_step_of_a_method_has_an_operation_without_a_fixed_order(name: str) -> None:
    student, teacher = net(MAIN.student, 1), net(MAIN.teacher, 2)
    options = {"w_adv": 0.01} if name == "sstkd" else {}
    distiller, image, label = METHODS[name](MAIN, **options), torch.randn(2, 3, 64, 64), labels()
    with in_fixed_order(ON), Recorded() as seen:
        with torch.no_grad():
            taught = teacher(image) if METHODS[name].needs_teacher else None
        taps = student(image)
        task = TaskLoss(None, MAIN.num_classes, 255)(taps.full, label, torch.tensor(100.0))
        terms = distiller(View(taps, taught, label, 0.5, torch.Generator().manual_seed(0), 2))
        backward(torch.stack([task, *terms.values()]).sum())
    assert not seen.names & UNORDERED


@pytest.mark.parametrize("architecture", ["pspnet-papers", "pspnet", "upernet", "deeplabv3-cirkd", "unet", "fpn"])
def test_no_step_of_a_network_has_an_operation_without_a_fixed_order(architecture: str) -> None:
    network = build(Network(architecture=architecture, encoder="tu-resnet18"), 4, 0)
    image, label = torch.randn(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.int64)
    for recipe, found in ((Train(steps=1, batch_size=2), None), (ON, set())):
        with in_fixed_order(recipe), Recorded() as seen:
            backward(F.cross_entropy(network(image).full, label))
        if found is not None:
            assert seen.names & UNORDERED == found
        elif "pspnet" in architecture or architecture == "upernet":
            assert "_adaptive_avg_pool2d_backward" in seen.names


@pytest.mark.parametrize(
    "loss", [{}, {"label_smoothing": 0.1}, {"name": "ohem", "min_kept": 10}, {"name": "dice"}, {"name": "focal"}]
)
def test_no_task_loss_has_an_operation_without_a_fixed_order(loss: dict[str, Any]) -> None:
    scores, label = torch.randn(2, 4, 8, 8, requires_grad=True), torch.zeros(2, 8, 8, dtype=torch.int64)
    with in_fixed_order(ON), Recorded() as seen:
        value = TaskLoss((LossTerm(**loss),), 4, 255)(scores, label, torch.tensor(100.0))
        backward(value)
    assert not seen.names & UNORDERED


def test_the_process_is_set_as_the_recipe_says_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for wanted in (True, False, True):
        set_backend(Train(steps=1, batch_size=1, deterministic=wanted))
        assert torch.are_deterministic_algorithms_enabled() is torch.backends.cudnn.deterministic is wanted
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.slow
def test_a_run_is_trained_and_timed_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The auxiliary head's loss included; with the bits of its first execution."""
    calls: list[str] = []
    for function, replaced in list(REPLACED.items()):
        monkeypatch.setitem(REPLACED, function, lambda *a, f=replaced, **k: (calls.append(f.__name__), f(*a, **k))[1])
    network = {"architecture": "pspnet-papers", "encoder": "tu-resnet18", "parameters": {"half_width": True}}
    pairs = [{"name": "p", "teacher": network | {"steps": 1}, "student": network}]
    recipe = tiny.TINY["train"] | {"steps": 2, "batch_size": 2, "eval_every": 2, "deterministic": True}
    plan = [tiny.plan(tmp_path, pairs=pairs, methods=["none", "sstkd"], train=recipe)[i] for i in (0, 2)]
    digests = []
    for folder in (tmp_path / "one", tmp_path / "other"):
        for run in plan:
            assert tiny.in_process(run, folder) == "ok"
        digests.append(store.read_row(paths.run_path(folder, plan[1].run_id))["weights_sha256"])
    assert digests[0] == digests[1]
    assert (calls.count("_adaptive_avg_pool2d"), calls.count("of_pixels")) == (2 * 3 * 4, 2 * 3 * 2)
    calls.clear()
    assert _time(plan[1], Resources()) > 0 and {"_adaptive_avg_pool2d", "of_pixels"} == set(calls)


def test_runs_without_it_keep_their_run_id_and_compiled_ones_are_refused() -> None:
    plain = Train(steps=1, batch_size=1).model_dump(mode="json")
    assert "deterministic" not in without_defaults_of_added_keys(plain)
    assert without_defaults_of_added_keys(plain | {"deterministic": True})["deterministic"] is True
    with pytest.raises(ValueError, match=r"deterministic: .* set compile: false"):
        Train(steps=1, batch_size=1, deterministic=True, compile=True)
