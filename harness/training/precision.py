"""In which precision a run computes: that of its forward passes, and that of products of float32."""

import torch

from harness.experiment.recipe import Train

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
ONLY_GPU = ("tf32", "fp16")


def require_device(recipe: Train, on_gpu: bool, remedy: str = "") -> None:
    """Raise ValueError if the precision needs a GPU and there is none; the message ends with `remedy`."""
    if recipe.precision in ONLY_GPU and not on_gpu:
        raise ValueError(f"train.precision: {recipe.precision} needs a GPU; use fp32 or bf16 on a CPU{remedy}")


def autocast(recipe: Train, device: torch.device) -> torch.autocast:
    """The context in which networks are run."""
    return torch.autocast(device.type, HALF.get(recipe.precision), enabled=recipe.precision in HALF)


def set_products(recipe: Train) -> None:
    """Let this process round float32 to TensorFloat-32 in convolutions and matrix products, or not, as the recipe says.

    Without this torch rounds in convolutions and not in matrix products, and a row would not say so.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = recipe.precision == "tf32"
