"""What is around a training step: the pairs that feed it, the ranks it is shared among, a loop as others write it."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

from harness import seeds
from harness.datasets import filedata
from harness.datasets.augment import augment
from harness.distillers import METHODS
from harness.models import build
from harness.testing.made_up import MAIN, SIZE, labels, net
from harness.training.batches import to_batch
from harness.training.precision import set_backend
from harness.training.ranks import Ranks
from harness.training.step import KDStep
from tests.gpu.proof import NotHere, Proof, Rows
from tests.support.caches import prepared
from tests.support.toydata import TOY, write_street

DEAD = """
import sys, torch
from pathlib import Path
from harness.errors import WorkerLost
from harness.training.execute import require_sound
device = torch.device("cuda")
try:
    torch.zeros(4, device=device)[torch.tensor([9], device=device)].sum().item()
except RuntimeError as error:
    print("first:", str(error).splitlines()[0])
try:
    require_sound(device)
    print("then: nothing was noticed")
except WorkerLost as error:
    print("then:", str(error).splitlines()[0])
"""


def pairs_a_second(proof: Proof) -> Rows:
    """Training pairs that one process makes from PNG files and from the prepared caches, and how many a step wants."""
    side = proof.size["picture"]
    with tempfile.TemporaryDirectory() as folder:
        root = write_street(Path(folder) / "street", (2 * side, 4 * side), ".png", count=4)
        ways = {"files": root} | {how: prepared(TOY, root, Path(folder) / how, how) for how in ("raw", "encoded")}
        rates = {}
        for name, where in ways.items():
            data = filedata.load(TOY, where, {}, 0.2, 0, None)
            times = []
            for i in range(12):
                began = time.perf_counter()
                rng = seeds.numpy_stream(0, "augment", i, 0)
                pair = augment(*data.train[i % 3], rng, crop_hw=(side, side), scale=(0.5, 2.0), fill=data.info.mean)
                image, label = (torch.from_numpy(array)[None] for array in pair)
                to_batch(image, label, data.info, torch.device("cpu"))
                times.append(time.perf_counter() - began)
            rates[name] = 1 / sorted(times)[len(times) // 2]
    steps = proof.results.get("Step times")
    known = [row["step ms"] for row in steps if row["method"] == "none"] if isinstance(steps, list) else []
    found = []
    for name, rate in rates.items():
        row = {"from": f"{name}, {2 * side} x {4 * side}", "crop": side, "pairs a second": round(rate, 1)}
        numbers = [ms for ms in known if isinstance(ms, float)]
        wanted = 1e3 * proof.size["batch"] / min(numbers) if numbers else None
        found.append(row | {"processes for the fastest step": "" if wanted is None else round(wanted / rate, 1)})
    return found


def one_rank(proof: Proof) -> Rows:
    """A step in DistributedDataParallel with SyncBatchNorm over a group of one, against the plain step."""
    backend = "nccl" if proof.on_gpu else "gloo"
    found = []
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        try:
            ranks = Ranks(proof.device, workers=2)  # as one of several: it is wrapped, and the group is asked
            for method in ("kd", "sstkd"):
                plain, shared = _stepped(proof, method, Ranks(proof.device)), _stepped(proof, method, ranks)
                terms = max(abs(plain[0][name] - shared[0][name]) / abs(plain[0][name]) for name in plain[0])
                off = torch.linalg.vector_norm(plain[1] - shared[1]) / torch.linalg.vector_norm(plain[1])
                found.append({"backend": backend, "method": method, "terms differ by": terms, "gradient": float(off)})
            values = torch.arange(3.0, device=proof.device)
            ranks.send([values])
            agreed = ranks.minimum(ranks.sum(values)).tolist(), ranks.agreed([0.25, 2.0])
            if agreed != ([0.0, 1.0, 2.0], [0.25, 2.0]):
                raise RuntimeError(f"the group of one gives {agreed}")
        finally:
            dist.destroy_process_group()
    return found


def _stepped(proof: Proof, method: str, ranks: Ranks) -> tuple[dict[str, float], torch.Tensor]:
    """The terms of one step, and its gradient as one vector."""
    run = proof.runs("ranks", [method], small=True)[1]
    set_backend(run.train)
    torch.manual_seed(0)
    student, teacher = net(MAIN.student, 1), net(MAIN.teacher, 2).eval().requires_grad_(False).to(proof.device)
    module = KDStep(student, METHODS[method](MAIN), 255)
    step = ranks.wrap(module, True, module.equal_buffers())
    image, label = torch.rand(SIZE[0], 3, *SIZE[1:]).to(proof.device), labels().to(proof.device)
    valid = (label != 255).sum().float()
    terms = step(image, label, teacher(image), valid, 0.0, torch.Generator().manual_seed(0))
    torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.flatten() for p in student.parameters() if p.grad is not None]
    return {name: value.item() for name, value in terms.items()}, torch.cat(gradients).cpu()


def dead_context(proof: Proof) -> Rows:
    """After an index out of range on the GPU its process is given up, not the runs that would follow in it."""
    if not proof.on_gpu:
        raise NotHere("on a CPU an index out of range is an error like others")
    done = subprocess.run([sys.executable, "-c", DEAD], capture_output=True, text=True, timeout=120, check=False)
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    if "an earlier run has left this process without its GPU" not in said.get("then", ""):
        raise RuntimeError(f"{said}; {done.stderr[-500:]}")
    return [said]


def plain_loop(proof: Proof) -> Rows:
    """kd's step as public code writes it (CIRKD's train_kd.py, from its description), beside ours, both in float32.

    Networks, memory format, batch size, optimizer and losses are ours. Of the plain loop: batches are copied blocking,
    each step reads its losses for the log, and its time is that of the wall. Ours is the step's and the batch's.
    """
    run = proof.runs("steps", ["kd"])[1]
    set_backend(run.train)
    assert run.teacher is not None
    classes, side = 6, proof.size["side"]
    networks = (build(network, classes, 0).to(proof.device) for network in (run.network, run.teacher))
    student, teacher = (network.to(memory_format=torch.channels_last) for network in networks)
    teacher.eval().requires_grad_(False)
    recipe = run.train.optimizer
    optimizer = torch.optim.AdamW(student.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    image = torch.randn(proof.size["batch"], 3, side, side).contiguous(memory_format=torch.channels_last)
    label = torch.randint(classes, (proof.size["batch"], side, side))
    if proof.on_gpu:
        image, label = image.pin_memory(), label.pin_memory()

    def task(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        scores = F.interpolate(scores, (side, side), mode="bilinear", align_corners=True)
        return F.cross_entropy(scores, wanted, ignore_index=255)

    times = []
    for _ in range(proof.size["steps"]):
        began = time.perf_counter()
        seen, wanted = image.to(proof.device), label.to(proof.device)
        with torch.no_grad():
            taught = teacher(seen).logits
        ours = student(seen)
        losses = [task(ours.logits, wanted)]
        if ours.aux is not None:
            losses.append(run.train.auxiliary_weight * task(ours.aux, wanted))
        losses.append(F.kl_div(ours.logits.log_softmax(1), taught.softmax(1), reduction="none").sum(1).mean())
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        [each.item() for each in losses]
        times.append(1e3 * (time.perf_counter() - began))
    warm = sorted(times[len(times) // 3 :])
    plain, steps = warm[len(warm) // 2], proof.results.get("Step times")
    rows = (
        [row for row in steps if (row["method"], row["precision"]) == ("kd", "fp32")] if isinstance(steps, list) else []
    )
    known = bool(rows) and isinstance(rows[0]["step ms"], float)
    own = rows[0]["step ms"] + rows[0]["data ms"] if known else 0.0
    found = {"plain ms": round(plain, 1), "kd ms": round(own, 1) if known else "not run"}
    return [found | {"ratio": round(plain / own, 2) if known else "not run"}]
