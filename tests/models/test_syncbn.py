"""CPUSyncBatchNorm over ranks equals BatchNorm2d on the batch of all ranks together."""

import copy
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from harness.models.syncbn import CPUSyncBatchNorm, convert_batchnorm
from tests.support.patience import PATIENCE

CPU = torch.device("cpu")
WORLD = 2


def cases() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    modules: dict[str, nn.Module] = {
        "plain": nn.BatchNorm2d(5),
        "cumulative average": nn.BatchNorm2d(5, momentum=None),
        "without affine": nn.BatchNorm2d(5, affine=False, eps=1e-3, momentum=0.3),
        "without running statistics": nn.BatchNorm2d(5, track_running_stats=False),
        "timm with activation": BatchNormAct2d(5, act_layer=nn.SiLU),
        "timm without activation": BatchNormAct2d(5, apply_act=False),
        "nested": nn.Sequential(
            nn.Conv2d(5, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Sequential(nn.Conv2d(6, 4, 1, bias=False), BatchNormAct2d(4, act_layer=nn.ReLU)),
        ),
    }
    for module in modules.values():
        for parameter in module.parameters():
            nn.init.normal_(parameter, mean=0.3)
        module.double().train()
    return modules


def batches(name: str, step: int) -> tuple[Tensor, Tensor]:
    """The global batch (4, 5, 6, 7), offset far from 0, and the weights of the loss."""
    generator = torch.Generator().manual_seed(step + 10 * len(name))
    x = 30 + 2 * torch.randn(4, 5, 6, 7, dtype=torch.float64, generator=generator)
    return x, torch.randn(4, 100, dtype=torch.float64, generator=generator)


SHARES = {0: slice(0, 3), 1: slice(3, 4)}  # uneven on purpose: the mean of means would be another number


def run(module: nn.Module, name: str, share: slice) -> dict[str, Any]:
    """Two training steps without an optimiser, then one pass in eval mode, on a share of the batch."""
    out: dict[str, Any] = {"y": [], "dx": []}
    for step in range(2):
        x, weights = batches(name, step)
        x = x[share].clone().requires_grad_(True)
        y = module(x)
        flat = y.flatten(1)
        (flat * weights[share, :1] * torch.linspace(-1, 1, flat.shape[1], dtype=y.dtype)).sum().backward()
        out["y"].append(y.detach())
        out["dx"].append(x.grad)
    out["gradients"] = {key: p.grad for key, p in module.named_parameters()}
    out["buffers"] = {key: value.clone() for key, value in module.named_buffers()}
    if out["buffers"]:
        with torch.no_grad():
            out["eval"] = module.eval()(batches(name, 5)[0][share])
    return out


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    results = {name: run(convert_batchnorm(module, CPU), name, SHARES[rank]) for name, module in cases().items()}
    torch.save(results, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found; they meet by a file, so no port can be taken."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        patch.setenv("OMP_NUM_THREADS", "1")
        context = torch.multiprocessing.spawn(worker, (str(folder),), nprocs=WORLD, join=False)
        limit = time.monotonic() + PATIENCE
        try:
            while not context.join(timeout=1):
                assert time.monotonic() < limit, "the ranks did not finish"
        finally:
            for process in context.processes:
                if process.is_alive():
                    process.kill()
    return [torch.load(Path(folder) / f"rank{rank}.pt", weights_only=True) for rank in range(WORLD)]


def close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape and found.dtype == expected.dtype
    assert (found - expected).abs().max() <= 1e-12 * max(1.0, float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", cases())
def test_two_ranks_equal_one_batch(ranks: list[dict[str, Any]], name: str) -> None:
    expected = run(cases()[name], name, slice(None))
    found = [rank[name] for rank in ranks]
    for step in range(2):
        for key in ("y", "dx"):
            close(torch.cat([rank[key][step] for rank in found]), expected[key][step])
    assert all(rank["gradients"].keys() == expected["gradients"].keys() for rank in found)
    for key, gradient in expected["gradients"].items():
        assert gradient.abs().max() > 1e-3
        close(found[0]["gradients"][key] + found[1]["gradients"][key], gradient)
    for rank in found:
        assert rank["buffers"].keys() == expected["buffers"].keys()
        for key, buffer in expected["buffers"].items():
            close(rank["buffers"][key].double(), buffer.double())
    if "eval" in expected:
        close(torch.cat([rank["eval"] for rank in found]), expected["eval"])


def test_the_proof_can_fail() -> None:
    """Statistics of a share differ from those of the whole, far beyond the tolerance."""
    whole = run(cases()["plain"], "plain", slice(None))
    part = run(cases()["plain"], "plain", SHARES[0])
    assert (whole["y"][0][SHARES[0]] - part["y"][0]).abs().max() > 1e-3


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world of one rank: its sum is its own value."""
    monkeypatch.setattr(dist, "all_reduce", lambda x: None)


@pytest.mark.usefixtures("alone")
def test_half_precision_keeps_its_type_and_counts_in_float32() -> None:
    source = nn.BatchNorm2d(3)
    reference = copy.deepcopy(source)
    x = (torch.randn(4, 3, 33, 35, generator=torch.Generator().manual_seed(0)) + 5).bfloat16()
    y = CPUSyncBatchNorm(source)(x)
    expected = reference(x.float())
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.float(), expected, atol=2e-2)
    assert torch.allclose(source.running_mean, reference.running_mean, rtol=1e-5)
    assert torch.allclose(source.running_var, reference.running_var, rtol=1e-4)


@pytest.mark.usefixtures("alone")
def test_one_value_per_channel_is_refused_as_torch_does() -> None:
    source = nn.BatchNorm2d(3)
    x = torch.randn(1, 3, 1, 1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        nn.BatchNorm2d(3)(x)
    with pytest.raises(ValueError, match=r"more than 1 value per channel.*\(1, 3, 1, 1\)"):
        CPUSyncBatchNorm(source)(x)
    assert source.running_var.isfinite().all() and source.num_batches_tracked == 0


def test_conversion_reaches_every_layer_and_keeps_tensors_names_and_mode() -> None:
    model = cases()["nested"].eval()
    keys, before = list(model.state_dict()), dict(model.named_parameters())
    converted = convert_batchnorm(model, CPU)
    kinds = [type(module) for module in converted.modules() if isinstance(module, nn.BatchNorm2d)]
    assert kinds == [CPUSyncBatchNorm, CPUSyncBatchNorm]
    assert list(converted.state_dict()) == keys
    assert all(p is before[name] for name, p in converted.named_parameters())
    assert not any(module.training for module in converted.modules())
    assert isinstance(convert_batchnorm(nn.BatchNorm2d(2), CPU), CPUSyncBatchNorm), "the root too"
