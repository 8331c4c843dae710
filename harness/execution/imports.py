"""Imports of torch and the networks without garbage collection, which takes a fifth of their CPU time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """No garbage collection within the block; later ones do not look at what was made in it, since imports stay."""
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
