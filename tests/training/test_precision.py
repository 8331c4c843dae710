"""In which precision products are made, and with which one a step is timed."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.distillers import METHODS
from harness.experiment.recipe import Augment, Evaluation, Train
from harness.taps import Taps
from harness.testing.made_up import MAIN, SIZE, labels, net
from harness.training.estimate import step_seconds_of
from harness.training.evaluate import predict
from harness.training.precision import require_device, set_backend


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, cudnn.benchmark
    yield
    set_backend(Train(steps=1, batch_size=1))
    cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32, cudnn.benchmark = before


@pytest.mark.parametrize(("precision", "rounded"), [("fp32", False), ("bf16", False), ("fp16", False), ("tf32", True)])
def test_float32_is_rounded_in_products_only_where_the_recipe_says_so(precision: str, rounded: bool) -> None:
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = not rounded, not rounded
    set_backend(Train(steps=1, batch_size=1, precision=precision))
    assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is rounded


@pytest.mark.parametrize(
    ("options", "tried"),
    [({}, False), ({"augment": Augment(crop_hw=(8, 8))}, True)],
)
def test_cudnn_tries_its_algorithms_in_steps_of_one_size_only(options: dict[str, Any], tried: bool) -> None:
    set_backend(Train(steps=1, batch_size=1, **options))
    seen = []

    class Seeing(nn.Module):
        def forward(self, image: Tensor) -> Taps:
            seen.append(torch.backends.cudnn.benchmark)
            raise FloatingPointError

    assert torch.backends.cudnn.benchmark is tried
    with pytest.raises(FloatingPointError):  # an evaluation that fails leaves it as it was, too
        predict(Seeing(), torch.zeros(1, 3, 8, 8), Evaluation())
    assert seen == [False] and torch.backends.cudnn.benchmark is tried
    set_backend(Train(steps=1, batch_size=1, deterministic=True, **options))
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("precision", ["tf32", "fp16"])
def test_what_needs_a_gpu_says_so(precision: str) -> None:
    recipe = Train(steps=1, batch_size=1, precision=precision)
    require_device(recipe, on_gpu=True)
    with pytest.raises(ValueError, match=f"train.precision: {precision} needs a GPU; use fp32 or bf16 on a CPU"):
        require_device(recipe, on_gpu=False)


class Watched(nn.Module):
    """A network that notes how it is run."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.seen = net(MAIN.student, 1), set[tuple[bool, bool, bool]]()

    def forward(self, image: Tensor) -> Taps:
        last = image.is_contiguous(memory_format=torch.channels_last)
        weights = next(self.inner.parameters()).is_contiguous(memory_format=torch.channels_last)
        self.seen.add((torch.is_autocast_enabled("cpu"), last, weights))
        return self.inner(image)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("last", [False, True])
def test_a_step_is_timed_as_the_recipe_runs_it(precision: str, last: bool) -> None:
    student, distiller = Watched(), METHODS["none"](MAIN)
    recipe = Train(steps=1, batch_size=2, precision=precision, channels_last=last)
    batches = [(torch.zeros(SIZE[0], 3, *SIZE[1:]), labels())] * 2
    step_seconds_of(student, None, distiller, batches, 255, recipe)  # type: ignore[arg-type]
    assert student.seen == {(precision == "bf16", last, last)}
