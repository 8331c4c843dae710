"""One Ray for the tests of a module that asks for it: to start one takes longer than to prepare a small data set."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """Every preparation of data and every search in this module finds the same Ray."""
    from harness.execution import launcher, prepare_data
    from harness.execution.connection import connected
    from harness.experiment.resources import Resources
    from harness.search import tuner
    from tests.support import cluster

    with pytest.MonkeyPatch.context() as patch:
        for name, value in tuner.ENVIRONMENT.items():  # Ray's processes inherit it
            patch.setenv(name, value)
        for module in (prepare_data, tuner, launcher):
            patch.setattr(module, "connected", lambda *_: nullcontext())
        with cluster.started(lambda: connected(Resources())):
            yield
