"""Networks are looked up, not built."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _stored_networks(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.config.getoption("quick"):  # where nothing builds a network
        yield
        return
    from harness.testing import networks
    from tests.support.networks import stored

    found = stored()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "networks", lambda: found)
        yield
