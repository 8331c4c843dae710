"""Named random streams: every use of randomness draws from its own stream, derived from (run seed, name, ...).

Two methods with the same seed therefore have the same initial student, batches, order and crops, whatever else they
draw. Step `i` does not depend on earlier steps, so a resumed run draws the same as an uninterrupted one.
"""

import hashlib

import numpy as np


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream `names` of `seed`: the first 8 bytes of SHA-256 over the names.

    Example:
        >>> derive(0, "augment", 3) != derive(0, "augment", 4)
        True
    """
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_stream(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator at the start of the stream `names` of `seed`."""
    return np.random.default_rng(derive(seed, *names))


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The order of the `count` training samples in `epoch`, shape (count,)."""
    return numpy_stream(seed, "order", epoch).permutation(count)


def batch_indices(seed: int, step: int, batch_size: int, count: int) -> list[int]:
    """Sample indices of the global batch of `step`; batches cross epochs, so no sample is dropped.

    Raises:
        ValueError: an empty split.
    """
    if count < 1:
        raise ValueError(f"the training split has {count} samples; at least 1 is needed")
    first = step * batch_size
    indices: list[int] = []
    while len(indices) < batch_size:
        epoch, offset = divmod(first + len(indices), count)
        indices.extend(epoch_order(seed, epoch, count)[offset : offset + batch_size - len(indices)].tolist())
    return indices
