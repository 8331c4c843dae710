"""Networks are looked up, not built."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def _stored_networks():
    from harness.testing import networks
    from tests.support.networks import stored

    found = stored()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "networks", lambda: found)
        yield
