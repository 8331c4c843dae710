"""A hub on this machine, for tests of published weights."""

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from safetensors.torch import save

from tests.support.hubs import Hub, serving
from tests.support.published import CARD, REPOSITORY, random_state


@pytest.fixture(scope="module")
def content() -> bytes:
    return save(random_state(7))


@pytest.fixture
def served(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one repository; the caches are empty and of this test alone."""
    with serving(Hub({REPOSITORY: {"model.safetensors": content, "README.md": CARD}})) as found:
        template = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
        template = template.replace(huggingface_hub.constants.ENDPOINT, found.address)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # Older releases read it from here.
        monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", found.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        yield found
