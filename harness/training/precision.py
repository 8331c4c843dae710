"""How a process computes a run: the precision of its forward passes and of products of float32, the order of sums."""

import os

import torch
from torch import Tensor, nn

from harness.experiment.recipe import Train
from harness.taps import Taps

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
ONLY_GPU = ("tf32", "fp16")


def require_device(recipe: Train, on_gpu: bool, remedy: str = "") -> None:
    """Raise ValueError if the precision needs a GPU and there is none; the message ends with `remedy`."""
    if recipe.precision in ONLY_GPU and not on_gpu:
        raise ValueError(f"train.precision: {recipe.precision} needs a GPU; use fp32 or bf16 on a CPU{remedy}")


def autocast(recipe: Train, device: torch.device) -> torch.autocast:
    """The context in which networks are run."""
    return torch.autocast(device.type, HALF.get(recipe.precision), enabled=recipe.precision in HALF)


def teach(teacher: nn.Module, image: Tensor, recipe: Train) -> Taps:
    """What the teacher says of images, without gradients; in float32 unless the recipe's precision is bf16 or fp16."""
    half = HALF.get(recipe.precision)
    inside = torch.bfloat16 if recipe.teacher_fast and half is None else half
    with torch.autocast(image.device.type, inside, enabled=inside is not None), torch.no_grad():
        taps: Taps = teacher(image).detach()
    return taps if inside is half else taps.float()


def teacher_layout(recipe: Train) -> torch.memory_format:
    """How the teacher's weights, and with them its maps, lie in memory."""
    return torch.channels_last if recipe.channels_last or recipe.teacher_fast else torch.contiguous_format


def set_backend(recipe: Train) -> None:
    """Set what torch keeps for the whole process as the recipe says; a row says nothing of what it leaves alone.

    - Whether float32 is rounded to TensorFloat-32: torch itself does so in convolutions and not in matrix products.
    - Whether only algorithms with a fixed order of additions may be used (`harness.training.deterministic`).
    - Whether cuDNN tries its algorithms on each new size of a map and keeps the fastest: where every step has one size.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = recipe.precision == "tf32"
    # It is read at the first product on a GPU, and a process may train a deterministic run after another one.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = recipe.augment.crop_hw is not None and not recipe.deterministic
    torch.backends.cudnn.deterministic = recipe.deterministic
    torch.use_deterministic_algorithms(recipe.deterministic)
