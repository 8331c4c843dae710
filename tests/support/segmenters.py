"""Networks whose scores can be worked out by hand, splits in memory, and an evaluation by one rank of several."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from harness.datasets.base import Data, DataInfo
from harness.experiment.recipe import Evaluation, Train
from harness.training.evaluate import Counted, evaluate
from harness.training.ranks import Ranks

CLASSES = 5


class Pixelwise(nn.Module):
    """Scores of a pixel by its own value: the same in every window, mirrored or not, whatever else is in the batch."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.classes = classes
        self.sizes = []

    def forward(self, image):
        self.sizes.append(tuple(image.shape[-2:]))
        centres = torch.linspace(0, 255, self.classes).view(1, -1, 1, 1)
        return SimpleNamespace(full=-((image[:, :1] - centres) ** 2) / 1000)


class Drifted(Pixelwise):
    """With statistics of its own: on ranks above 0 what was seen there, as without synchronised batch normalisation."""

    def __init__(self, rank):
        super().__init__()
        self.register_buffer("mean", torch.full((1,), 60.0 * rank))
        self.register_buffer("batches", torch.tensor(3 + rank))

    def forward(self, image):
        return super().forward(image - self.mean)


class Placed(nn.Module):
    """Scores by value and by place in what is shown: windows disagree where they overlap."""

    def __init__(self, classes=CLASSES):
        super().__init__()
        self.classes = classes

    def forward(self, image):
        h, w = image.shape[-2:]
        y, x = torch.arange(h).view(h, 1), torch.arange(w).view(1, w)
        k = torch.arange(1.0, self.classes + 1).view(1, -1, 1, 1)
        return SimpleNamespace(full=torch.sin(image[:, :1] * k / 40) + torch.cos(k * (y * 3 + x * 5 + h + 2 * w)) / 2)


class Constant(nn.Module):
    """The same scores everywhere; class 2 is the highest."""

    def forward(self, image):
        scores = torch.tensor([0.5, -1.0, 2.0, 0.0, 1.5]).view(1, -1, 1, 1)
        return SimpleNamespace(full=scores.expand(len(image), -1, *image.shape[-2:]))


def split(count, shapes=((12, 17),), seed=0, void=0.2):
    """(image, label) pairs of grey pixels; in every third label each pixel is ignored."""
    out = []
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        hw = shapes[index % len(shapes)]
        coarse = rng.integers(0, CLASSES, [-(-side // 4) for side in hw])
        label = np.kron(coarse, np.ones((4, 4)))[: hw[0], : hw[1]].astype(np.uint8)
        grey = np.clip(label * 60.0 + rng.normal(0, 40, hw), 0, 255).astype(np.uint8)
        label[rng.random(hw) < void] = 255
        if index % 3 == 2:
            label[:] = 255
        out.append((np.repeat(grey[..., None], 3, axis=2), label))
    return out


def data(dev, val):
    """A dataset of two splits that are not normalised."""
    names = tuple(f"class{k}" for k in range(CLASSES))
    palette = tuple((k, k, k) for k in range(CLASSES))
    info = DataInfo("made-up", CLASSES, names, palette, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "ab" * 32, "made up")
    return Data(info, dev, dev, val)


def counted(network, splits, name="val", final=True, batch=4, ranks=None, **options) -> Counted:
    """The evaluation of a network over a split by one process."""
    run = SimpleNamespace(train=Train(steps=1, batch_size=1, eval_batch_size=batch, evaluation=Evaluation(**options)))
    return evaluate(network, splits, name, run, ranks or Ranks(torch.device("cpu")), final=final)


SHARED = {1: 1, 2: 1, 3: 2, 5: 3}  # samples of a split, and the largest batch they are shown in


def by_ranks(folder: Path, world: int = 2) -> None:
    """Evaluate splits of the sizes of SHARED by `world` processes; the first leaves what it got in the folder."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    environment |= {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
    code = (
        "import sys; from tests.support.segmenters import work; work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(folder), str(rank), str(world)], env=environment)
        for rank in range(world)
    ]
    try:
        assert [process.wait(120) for process in processes] == [0] * world
    finally:
        for process in processes:
            process.kill()
            process.wait()


def work(folder: str, rank: int, world: int) -> None:
    """One rank."""
    meeting = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", meeting, timedelta(seconds=60), rank=rank, world_size=world)
    ranks = Ranks(torch.device("cpu"), rank, world)
    for samples, batch in SHARED.items():
        splits = data(split(samples, seed=1), split(samples, ((12, 17), (12, 17), (9, 20))))
        network = Drifted(rank)
        got = counted(network, splits, batch=batch, ranks=ranks, boundary=1, per_image=True)
        assert float(network.mean) == 0 and int(network.batches) == 3, "the ranks judge one network, the saved one"
        assert (got.images is None) == (rank > 0)
        if rank == 0:
            np.savez(Path(folder) / f"{samples}.npz", **vars(got))
        dev = counted(Pixelwise(), splits, "dev", final=False, ranks=ranks, boundary=1, per_image=True)
        assert dev.boundary is None and dev.images is None
    dist.barrier()
    dist.destroy_process_group()
