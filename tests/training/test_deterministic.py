"""`train.deterministic`: no operation that adds in another order each time on a GPU, and the same values as without.

There need be no GPU: the operations that torch has no deterministic form for on CUDA are known by name
(`torch.use_deterministic_algorithms`), and those that a step calls are recorded.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from harness.distillers import METHODS
from harness.experiment.network_rules import ARCHITECTURES, WITHOUT_ORDER
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
from tests.support.small_transformers import SMALL as SMALL_TRANSFORMERS

UNORDERED = {
    *("_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward", "adaptive_max_pool2d_backward"),
    *("avg_pool3d_backward", "fractional_max_pool2d_backward", "max_unpool2d", "max_unpool3d"),
    *("upsample_bicubic2d_backward", "upsample_linear1d_backward", "upsample_trilinear3d_backward"),
    *("_upsample_bicubic2d_aa_backward", "_upsample_bilinear2d_aa_backward"),
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward"),
    *("nll_loss2d_forward", "nll_loss2d_backward", "_ctc_loss_backward", "put_", "histc", "median.dim"),
    *("grid_sampler_2d_backward", "grid_sampler_3d_backward"),
}
"""What torch refuses on CUDA. `upsample_bilinear2d_backward` is not among them: `F.interpolate` replaces it there."""
SMALL = {
    **{
        name: ("tu-resnet18", {}) for name in ("unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "deeplabv3")
    },
    **{name: ("tu-resnet18", {}) for name in ("deeplabv3plus", "pan", "upernet", "segformer")},
    **{name: ("tu-resnet18", {}) for name in ("pspnet-papers", "deeplabv3-cirkd")},
    **{name: ("tu-vit_tiny_patch16_224", {}) for name in ("vit-linear", "vit-multilevel", "vit-dpt")},
    "dpt": ("tu-vit_tiny_patch16_224", {}),
    **{name: ("resnet50", {}) for name in ("fcn-torchvision", "deeplabv3-torchvision")},
    "lraspp": ("mobilenet_v3_large", {}),
    **SMALL_TRANSFORMERS,
}
"""A network of each architecture: encoder and parameters."""
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
@pytest.mark.parametrize("out", [1, 2, 3, (6, 4), (None, 3), [3, 1]])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_bins_have_the_same_means_and_gradients(
    size: tuple[int, int], out: Any, kind: torch.dtype, layout: torch.memory_format
) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(kind)
    one, other = (x.clone(memory_format=layout).requires_grad_() for _ in range(2))
    plain = F.adaptive_avg_pool2d(one, out)
    weight = torch.linspace(-1, 1, plain.numel(), dtype=kind).view_as(plain)
    with Recorded() as seen:
        with in_fixed_order(ON):
            fixed = F.adaptive_avg_pool2d(other, out)
        backward((fixed * weight).sum())
    backward((plain * weight).sum())
    bound = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2e-2}[kind]
    assert fixed.dtype is plain.dtype and fixed.stride() == plain.stride() and not seen.names & UNORDERED
    torch.testing.assert_close(fixed, plain, atol=bound, rtol=bound)
    torch.testing.assert_close(other.grad, one.grad, atol=bound, rtol=bound)


def test_bins_are_exact_and_a_value_that_is_not_finite_stays_in_its_own() -> None:
    x = torch.ones(1, 1, 60, 60)
    x[..., 0, 0] = torch.inf
    with in_fixed_order(ON):
        found = F.adaptive_avg_pool2d(x, 6)
        assert torch.equal(F.adaptive_avg_pool2d(x[0], 6), found[0])
    assert torch.equal(found, F.adaptive_avg_pool2d(x, 6)) and found.isinf().sum() == 1


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "bicubic"},
        {"mode": "bicubic", "align_corners": True},
        {"mode": "bicubic", "antialias": True},
        {"mode": "bilinear", "antialias": True},
        {"mode": "area"},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(7, 5), (20, 30), (13, 14), 6])
@pytest.mark.parametrize("current", [(13, 14), (5, 9)])
def test_resizing_has_the_same_values_and_gradients(
    options: dict[str, Any], size: Any, current: tuple[int, int]
) -> None:
    x = torch.randn(2, 3, *current, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    plain = F.interpolate(one, size, **options)
    weight = torch.linspace(-1, 1, plain.numel(), dtype=torch.float64).view_as(plain)
    with Recorded() as seen:
        with in_fixed_order(ON):
            fixed = F.interpolate(other, size, **options)
        backward((fixed * weight).sum())
    backward((plain * weight).sum())
    assert not seen.names & UNORDERED
    torch.testing.assert_close(fixed, plain, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(other.grad, one.grad, atol=1e-12, rtol=1e-12)
    for factor in (0.5, 2.0, (1.7, 0.6)):
        with in_fixed_order(ON):
            fixed = F.interpolate(x, scale_factor=factor, **options)
        torch.testing.assert_close(fixed, F.interpolate(x, scale_factor=factor, **options), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda: F.cross_entropy(torch.randn(2, 4, 5, 6), torch.zeros(2, 6, 5, dtype=torch.int64)),
        lambda: F.cross_entropy(torch.randn(2, 4, 5, 6), torch.zeros(2, 1, 5, 6, dtype=torch.int64)),
        lambda: F.cross_entropy(torch.randn(2, 4, 5, 6), torch.zeros(1, 10, 6, dtype=torch.int64)),
        lambda: F.nll_loss(torch.randn(2, 4, 5, 6), torch.zeros(2, 6, 5, dtype=torch.int64)),
        lambda: F.adaptive_avg_pool2d(torch.randn(5, 6), 3),
        lambda: F.adaptive_avg_pool2d(torch.randn(2, 3, 4, 5, 6), 3),
        lambda: F.adaptive_avg_pool2d(torch.zeros(2, 3, 5, 6, dtype=torch.int64), 3),
        lambda: F.adaptive_avg_pool2d(torch.randn(2, 3, 0, 6), 3),
        lambda: F.adaptive_avg_pool2d(torch.randn(2, 3, 5, 6), [3]),
        lambda: F.interpolate(torch.randn(2, 3, 5), (4, 4), mode="bicubic"),
        lambda: F.interpolate(torch.randn(2, 3, 5, 6), mode="bicubic"),
    ],
)
def test_what_torch_refuses_is_refused_in_its_words(call: Callable[[], Tensor]) -> None:
    with pytest.raises((ValueError, RuntimeError, TypeError)) as plain:
        call()
    with in_fixed_order(ON), pytest.raises(plain.type) as fixed:
        call()
    assert str(fixed.value).splitlines()[0] == str(plain.value).splitlines()[0]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"weight": torch.tensor([0.5, 1.0, 2.0, 1.0])}])
def test_cross_entropy_has_the_same_values_and_gradients(reduction: str, options: dict[str, Any]) -> None:
    stream = torch.Generator().manual_seed(0)
    scores, label = torch.randn(2, 4, 5, 6, generator=stream), torch.randint(4, (2, 5, 6), generator=stream)
    label[0, :2] = 255
    one, other = scores.clone().requires_grad_(), scores.clone().requires_grad_()
    plain = F.cross_entropy(one, label, ignore_index=255, reduction=reduction, **options)
    with Recorded() as seen:
        with in_fixed_order(ON):
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
    assert set(REPLACED) == {F.adaptive_avg_pool2d, F.interpolate, F.cross_entropy, F.nll_loss}


@pytest.mark.parametrize("name", METHODS)
def test_no_step_of_a_method_has_an_operation_without_a_fixed_order(name: str) -> None:
    student, teacher = net(MAIN.student, 1), net(MAIN.teacher, 2)
    options = {"w_adv": 0.01} if name == "sstkd" else {}
    distiller, image, label = METHODS[name](MAIN, **options), torch.randn(2, 3, 64, 64), labels()
    with Recorded() as seen:
        with in_fixed_order(ON):
            with torch.no_grad():
                taught = teacher(image) if METHODS[name].needs_teacher else None
            taps = student(image)
            task = TaskLoss(None, MAIN.num_classes, 255)(taps.full, label, torch.tensor(100.0))
            terms = distiller(View(taps, taught, label, 0.5, torch.Generator().manual_seed(0), 2))
        backward(torch.stack([task, *terms.values()]).sum())
    assert not seen.names & UNORDERED


def of_a_step(architecture: str, recipe: Train) -> set[str]:
    encoder, parameters = SMALL[architecture]
    network = build(Network(architecture=architecture, encoder=encoder, parameters=parameters), 5, 0)
    image, label = torch.randn(2, 3, 128, 128), torch.zeros(2, 128, 128, dtype=torch.int64)
    with Recorded() as seen:
        with in_fixed_order(recipe):
            taps = network(image)
            loss = F.cross_entropy(taps.full, label)
            if taps.aux is not None:
                loss = loss + F.cross_entropy(F.interpolate(taps.aux, (128, 128), mode="bilinear"), label)
        backward(loss)
    return seen.names & UNORDERED


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_step_of_a_network_has_an_operation_without_a_fixed_order(architecture: str) -> None:
    found = of_a_step(architecture, ON)
    assert (found != set()) == (architecture in WITHOUT_ORDER), found


@pytest.mark.parametrize(
    ("architecture", "operation"),
    [
        ("pspnet-papers", "_adaptive_avg_pool2d_backward"),
        ("upernet", "_adaptive_avg_pool2d_backward"),
        ("vit-linear", "_upsample_bicubic2d_aa_backward"),
    ],
)
def test_without_the_key_some_networks_have_one(architecture: str, operation: str) -> None:
    """So that the test above sees what it is there to see."""
    assert operation in of_a_step(architecture, Train(steps=1, batch_size=2))
    assert of_a_step(architecture, ON) == set()


def test_a_network_without_such_a_form_is_refused_for_a_gpu(tmp_path: Path) -> None:
    one = {"architecture": "mask2former", "encoder": "swin-tiny"}
    pairs = [{"name": "p", "teacher": tiny.TINY["pairs"][0]["teacher"], "student": one}]
    train = tiny.TINY["train"] | {"deterministic": True}
    with pytest.raises(ValueError, match=r"train\.deterministic: mask2former is trained with grid_sample"):
        tiny.plan(tmp_path, pairs=pairs, train=train, resources={"gpus_per_worker": 1})
    assert tiny.plan(tmp_path, pairs=pairs, train=train)


@pytest.mark.parametrize(
    "loss", [{}, {"label_smoothing": 0.1}, {"name": "ohem", "min_kept": 10}, {"name": "dice"}, {"name": "focal"}]
)
def test_no_task_loss_has_an_operation_without_a_fixed_order(loss: dict[str, Any]) -> None:
    scores, label = torch.randn(2, 4, 8, 8, requires_grad=True), torch.zeros(2, 8, 8, dtype=torch.int64)
    with Recorded() as seen:
        with in_fixed_order(ON):
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
    assert _time(plan[1], Resources()) > 0 and {"_adaptive_avg_pool2d", "of_pixels"} <= set(calls)


def test_runs_without_it_keep_their_run_id_and_compiled_ones_are_refused() -> None:
    plain = Train(steps=1, batch_size=1).model_dump(mode="json")
    assert "deterministic" not in without_defaults_of_added_keys(plain)
    assert without_defaults_of_added_keys(plain | {"deterministic": True})["deterministic"] is True
    with pytest.raises(ValueError, match=r"deterministic: .* set compile: false"):
        Train(steps=1, batch_size=1, deterministic=True, compile=True)
