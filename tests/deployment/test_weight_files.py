"""Weights of every kind of network come back into their library's own network, by their own names."""

from pathlib import Path

import pytest
import torch

from harness.deployment.weight_files import load_safetensors, load_smp, write_safetensors, write_smp
from tests.support import exported

pytestmark = [pytest.mark.torch, pytest.mark.slow]
PAIRS = (("unet", "resnet18"), ("segformer", "mit_b0"), ("deeplabv3plus", "tu-convnext_atto"), *exported.OTHERS)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_weights_come_back(pair: tuple[str, str], tmp_path: Path) -> None:
    source = exported.source(*pair)
    assert source is not None
    image = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = source.network(image).full
    write_safetensors(source, tmp_path)
    torch.testing.assert_close(load_safetensors(source, tmp_path)(image), wanted)
    if pair[0] in (*exported.SMP, "dpt"):
        write_smp(source, tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
        torch.testing.assert_close(load_smp(source, tmp_path)(image), wanted)
    else:
        with pytest.raises(ValueError, match=f"--to smp: {pair[0]} is no network of segmentation-models-pytorch"):
            write_smp(source, tmp_path)
