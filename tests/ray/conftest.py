"""One Ray for the tests of a module that asks for it: to start one takes longer than to prepare a small data set."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest


@pytest.fixture(scope="module")
def one_ray() -> Iterator[None]:
    """Every preparation of data in this module finds the same Ray."""
    from harness.execution import prepare_data
    from harness.execution.connection import connected
    from harness.experiment.resources import Resources
    from tests.support import cluster

    with cluster.started(lambda: connected(Resources())), pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare_data, "connected", lambda resources: nullcontext())
        yield
