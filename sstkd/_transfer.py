"""Random numbers are drawn on the CPU, so that they are the same on every device, and then sent to it."""

from torch import Tensor


def sent(x: Tensor, like: Tensor) -> Tensor:
    """`x` on the device of `like`. From the CPU, the processor does not wait for a GPU to come to this copy."""
    if like.device == x.device:
        return x
    if x.device.type != "cpu":  # drawn by a device's own stream; a copy to the CPU must have ended when it is read
        return x.to(like.device)
    # Only from pinned memory may a copy be left to the device; torch reuses that memory after the copy.
    source = x.pin_memory() if like.device.type == "cuda" else x
    return source.to(like.device, non_blocking=True)
