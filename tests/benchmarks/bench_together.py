"""Six methods in step, with one teacher's pass for all, against the same runs one after another and public code's loop.

    pytest tests/benchmarks/bench_together.py

DeepLabV3 with ResNet-101 teaches ResNet-18, crops of 128 x 128, batch 2, one thread. Ratios are of processor seconds in
one process, of training without building and evaluation; the rows are compared first. Of public code's loop
(plain_loop.py) it is the steps alone, without making batches.
"""

import time
from pathlib import Path

import torch

from harness.experiment.spec import Run
from harness.models import build
from harness.results import paths, store
from harness.taps import Pair
from harness.training.batches import batch_of
from harness.training.build import for_inputs, load_data
from harness.training.execute import execute, execute_together
from harness.training.runtime import Runtime
from tests.benchmarks import plain_loop
from tests.support import tiny

METHODS = ["none", "kd", "cwd", "skd", "ifvd", "sstkd"]
STEPS = 8


def runs_of(folder: Path) -> list[Run]:
    """The teacher, then one student of each method."""
    network = {"architecture": "deeplabv3", "encoder": "tu-resnet101"}
    return tiny.plan(
        folder,
        *(f"train.steps={STEPS}", f"train.eval_every={STEPS}", f"train.checkpoint_every={STEPS}"),
        *("train.batch_size=2", "train.schedule.warmup_steps=0"),
        data={"name": "texmosaic", "parameters": {"size": 128, "train": 4, "dev": 1, "val": 1}},
        pairs=[
            {"name": "r101-to-r18", "teacher": network | {"steps": 1}, "student": network | {"encoder": "tu-resnet18"}}
        ],
        methods=METHODS,
    )


def local(folder: Path, run: Run) -> Runtime:
    return Runtime.local(paths.checkpoint_directory(folder, run.run_id), device=torch.device("cpu"))


def plain_seconds(run: Run, runtime: Runtime) -> float:
    """Of public code's loop on the run's networks and batches."""
    data = for_inputs(load_data(run.data, runtime.share), run.train.normalize, run.network)
    drawn = [batch_of(data.train, data.info, run, runtime, step) for step in range(STEPS)]
    student, teacher = (build(network, data.info.num_classes, 0) for network in (run.network, run.teacher))
    pair = Pair(student.info(), teacher.info(), data.info.num_classes, data.info.ignore_index)
    batches = [(batch.image.contiguous(), batch.label) for batch in drawn]
    return plain_loop.seconds(run.method.name, pair, student, teacher, batches, data.info.ignore_index)


def test_six_methods(tmp_path: Path) -> None:
    teacher, *runs = runs_of(tmp_path)
    folders = [tmp_path / name for name in ("alone", "together")]
    assert execute(teacher, local(folders[0], teacher), folders[0]) == "ok"
    for path in (paths.run_path, paths.weights_path):
        target = path(folders[1], teacher.run_id)
        target.parent.mkdir(parents=True)
        target.write_bytes(path(folders[0], teacher.run_id).read_bytes())
    seconds = []
    for folder, many in zip(folders, (False, True), strict=True):
        began = time.process_time()
        if many:
            runtimes = {run.run_id: local(folder, run) for run in runs}
            execute_together({run.run_id: run for run in runs}, runtimes, folder, lambda _: None, lambda *_: None)
        else:
            for run in runs:
                assert execute(run, local(folder, run), folder) == "ok"
        seconds.append(time.process_time() - began)
    rows = [[store.read_row(paths.run_path(folder, run.run_id)) for run in runs] for folder in folders]
    for one, other in zip(*rows, strict=True):
        assert one["weights_sha256"] == other["weights_sha256"], one["method"]
    # What was shared is in every row in full; the process spent it once.
    trained = [
        sum(row["train_seconds"] for row in rows[0]),
        sum(row["train_seconds"] - row["shared_seconds"] for row in rows[1])
        + max(r["shared_seconds"] for r in rows[1]),
    ]
    print(
        f"\n{len(runs)} methods, {STEPS} steps: one after another {trained[0]:.1f} s of training, together "
        f"{trained[1]:.1f} s, {trained[0] / trained[1]:.2f} times as fast; with building, evaluation and rows "
        f"{seconds[0]:.1f} and {seconds[1]:.1f} s, {seconds[0] / seconds[1]:.2f} times ({seconds[0] - trained[0]:.1f} s are not training)"
    )
    runs_of_them = dict(zip(METHODS, runs, strict=True))
    taught = runs_of_them["kd"]  # whose teacher is everyone's; the run without distillation names none
    loops = {
        name: plain_seconds(
            run if run.teacher else run.model_copy(update={"teacher": taught.teacher}), local(tmp_path, run)
        )
        for name, run in runs_of_them.items()
    }
    plain = sum(loops.values())
    print(
        f"public code's loop, one after another: {plain:.1f} s, {plain / trained[0]:.2f} times that of ours one after "
        f"another, {plain / trained[1]:.2f} times that of ours together; ms a step: "
        + ", ".join(f"{name} {1e3 * value / STEPS:.0f}" for name, value in loops.items())
    )
    print(
        "step ms alone, together: "
        + ", ".join(f"{a['method']} {a['step_ms']:.0f} {b['step_ms']:.0f}" for a, b in zip(*rows, strict=True))
    )
