"""What the first machine with a GPU has to show, in ten minutes.

    python -m tests.gpu.prove [--minutes 9] [--to FOLDER] [--toy]

Sections are in the order of their worth. Each is printed as it ends, and kept in FOLDER/prove.json and prove.md. One that
fails says so and the others go on; the exit status is then 1. After the minutes the rest is "not run". It needs no
network and no Ray, and runs on a CPU too: with `--toy` in two minutes, where the figures mean nothing.
"""

import argparse
import contextlib
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from harness.distillers import METHODS
from harness.experiment.load import load
from harness.experiment.plan import outline
from harness.results import paths, store
from harness.training.cost import device_name
from harness.training.execute import execute, execute_together
from harness.training.runtime import Runtime
from tests.gpu.proof import LARGE, SIX, TOY, NotHere, Proof, Rows
from tests.gpu.surroundings import dead_context, one_rank, pairs_a_second, plain_loop


def machine(proof: Proof) -> Rows:
    """What it is."""
    cuda = torch.cuda.get_device_properties(proof.device) if proof.on_gpu else None
    return [
        {
            "device": device_name(proof.device),
            "GiB": "" if cuda is None else round(cuda.total_memory / 2**30, 1),
            "capability": "" if cuda is None else f"{cuda.major}.{cuda.minor}",
            "torch": torch.__version__,
            "CUDA": torch.version.cuda or "",
            "cuDNN": torch.backends.cudnn.version() or "",
            "Python": platform.python_version(),
        }
    ]


def against_the_cpu(proof: Proof) -> Rows:
    """First terms of every method in float32, here and on the CPU: the largest relative difference."""
    runs = proof.runs("agree", METHODS, "train.steps=1", "train.optimizer={name: sgd, lr: 0.001}", small=True)
    here = proof.done(runs, "here")
    there = proof.done(runs, "there", torch.device("cpu"))
    found = []
    for one, other in zip(here, there, strict=True):
        a, b = (dict(row["losses"][0]["terms"]) for row in (one, other))
        worst = max(a, key=lambda term: abs(a[term] - b[term]) / (abs(b[term]) + 1e-9))
        off = abs(a[worst] - b[worst]) / (abs(b[worst]) + 1e-9)
        found.append({"method": one["method"], "term": worst, "here": a[worst], "CPU": b[worst], "relative": off})
    return found


def step_times(proof: Proof) -> Rows:
    """Of every method and precision; the median of the steps by events, memory at its peak."""
    found = []
    for precision in proof.precisions:
        runs = proof.runs("steps", proof.size["methods"], f"train.precision={precision}")
        for run in runs[1:]:
            if time.monotonic() > proof.until:
                found.append({"method": run.method.name, "precision": precision, "step ms": "not run"})
                continue
            (row,) = proof.done([runs[0], run], "steps")
            terms = {name: round(value, 4) for name, value in dict(row["losses"][0]["terms"]).items()}
            found.append(
                {
                    "method": row["method"],
                    "precision": precision,
                    "step ms": round(row["step_ms"], 1),
                    "p90": round(row["step_ms_p90"], 1),
                    "data ms": round(row["data_ms"], 1),
                    "peak MiB": round(row["peak_memory_mb"]),
                    "first terms": " ".join(f"{name} {value}" for name, value in terms.items()),
                }
            )
    return found


def together(proof: Proof) -> Rows:
    """Six methods in step, with one teacher's pass, against one after another; the rows are the same or not."""
    methods = SIX if proof.on_gpu else proof.size["methods"]
    runs = proof.runs("six", methods)
    alone = proof.done(runs, "alone")
    directory = proof.folder / "together"
    proof.done(runs[:1], "together")
    members = {run.run_id: run for run in runs[1:]}
    runtimes = {
        run_id: Runtime.local(paths.checkpoint_directory(directory, run_id), device=proof.device) for run_id in members
    }
    execute_together(members, runtimes, directory, lambda run_id: None, lambda run_id, how: None)
    found = [store.read_row(paths.run_path(directory, run_id)) for run_id in members]
    before = sum(row["train_seconds"] for row in alone)
    after = sum(row["train_seconds"] - row["shared_seconds"] for row in found) + max(r["shared_seconds"] for r in found)
    equal = sum(a["weights_sha256"] == b["weights_sha256"] for a, b in zip(alone, found, strict=True))
    return [
        {
            "methods": len(found),
            "one after another s": round(before, 2),
            "together s": round(after, 2),
            "ratio": round(before / after, 2),
            "ms a step together": round(1e3 * after / proof.size["steps"], 1),
            "same weights": f"{equal} of {len(found)}",
        }
    ]


def same_bits(proof: Proof) -> Rows:
    """Two executions of one run, without and with `train.deterministic`: whether their weights are equal, and its cost."""
    found = []
    for method in ("kd", "sstkd"):
        for wanted in ("false", "true"):
            runs = proof.runs("bits", [method], f"train.deterministic={wanted}")
            first, second = (proof.done(runs, where)[0] for where in ("bits1", "bits2"))
            same = first["weights_sha256"] == second["weights_sha256"]
            step = round(second["step_ms"], 1)
            found.append({"method": method, "deterministic": wanted, "same weights": same, "step ms": step})
    return found


def resumed(proof: Proof) -> Rows:
    """A run that is interrupted after its second step and resumed: whether its weights are those of the whole run."""

    class Stop(BaseException):
        pass

    def stop(columns: dict[str, Any]) -> None:
        raise Stop

    runs = proof.runs("resume", ["kd"], "train.steps=4", "train.eval_every=2", small=True)
    (whole,) = proof.done(runs, "whole")
    proof.done(runs[:1], "broken")
    with contextlib.suppress(Stop):
        proof.done(runs, "broken", on_evaluation=stop)
    (again,) = proof.done(runs, "broken")
    return [{"resumed": again["resumed"], "same weights": again["weights_sha256"] == whole["weights_sha256"]}]


def waits(proof: Proof) -> Rows:
    """Where a step makes the processor wait for the GPU, by line, as torch warns of it."""
    if not proof.on_gpu:
        raise NotHere("only a GPU is waited for")
    import warnings
    from collections import Counter

    found: Rows = []
    for method in SIX:
        runs = proof.runs("waits", [method], "train.steps=3", small=True)
        proof.done(runs[:1], "waits")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                proof.done(runs, "waits")
            finally:
                torch.cuda.set_sync_debug_mode("default")
        lines = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))
        found += [{"method": method, "line": line, "times in 3 steps": n} for line, n in lines.most_common(8)]
    return found


def out_of_memory(proof: Proof) -> Rows:
    """A batch that cannot fit is one row that says so, and the next run is sound."""
    if not proof.on_gpu:
        raise NotHere("a CPU's memory is the machine's")
    runs = proof.runs("full", ["none"], "train.batch_size=4096", "data.parameters.train=4096")
    directory = proof.folder / "full"
    status = execute(runs[1], Runtime.local(device=proof.device), directory)
    message = store.read_row(paths.run_path(directory, runs[1].run_id))["message"]
    after = proof.done(proof.runs("after", ["none"], small=True), "after")
    return [{"status": status, "message": message[:300], "the next run": after[0]["status"]}]


def compiled(proof: Proof) -> Rows:
    """Milliseconds a step with the student compiled, and not."""
    if not proof.on_gpu:
        raise NotHere("for a CPU, networks are compiled in minutes")
    found = []
    for method in ("kd", "sstkd"):
        for wanted in ("false", "true"):
            runs = proof.runs("compiled", [method], f"train.compile={wanted}", "train.precision=bf16")
            (row,) = proof.done(runs, "compiled")
            found.append({"method": method, "compile": wanted, "step ms": round(row["step_ms"], 1)})
    return found


def fast_teacher(proof: Proof) -> Rows:
    """Milliseconds a step of kd with `train.teacher_fast`, and without; the first value of its term."""
    found = []
    for precision in [each for each in ("fp32", "tf32", "bf16") if each in proof.precisions]:
        for wanted in ("false", "true"):
            settings = f"train.teacher_fast={wanted}", f"train.precision={precision}"
            (row,) = proof.done(proof.runs("fast", ["kd"], *settings), "fast")
            term = dict(row["losses"][0]["terms"])["kd"]
            ms = round(row["step_ms"], 1)
            found.append({"precision": precision, "teacher_fast": wanted, "step ms": ms, "first kd": round(term, 4)})
    return found


def kernels(proof: Proof) -> Rows:
    """Where the time of sstkd's steps goes."""
    runs = proof.runs("kernels", ["sstkd"], "train.precision=bf16", "train.steps=3")
    proof.done(runs[:1], "kernels")
    activities = [torch.profiler.ProfilerActivity.CPU]
    if proof.on_gpu:
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        proof.done(runs, "kernels")
    spent = [
        (event.self_device_time_total if proof.on_gpu else event.self_cpu_time_total, event.count, event.key)
        for event in profile.key_averages()
    ]
    total = sum(time for time, _, _ in spent)
    return [
        {"what": key[:80], "ms": round(time / 1e3, 1), "share %": round(100 * time / total, 1), "calls": count}
        for time, count, key in sorted(spent, reverse=True)[:12]
    ]


def quickstart(proof: Proof) -> Rows:
    """A short quickstart in every precision: dev mIoU of every method, and of the student without distillation."""
    steps, found = proof.size["quickstart"], []
    for precision in proof.precisions:
        overrides = [f"train.steps={steps}", f"pairs.0.teacher.steps={steps}", f"train.precision={precision}"]
        short = ["data.parameters.train=64", "data.parameters.dev=16", "data.parameters.val=8", "seeds=[0]"]
        runs = outline(load(Path("experiments/quickstart.yaml"), [*overrides, *short, "name=prove"]))
        rows = proof.done(runs, "quickstart")
        scores = {row["method"]: f"{100 * row['dev_miou']:.1f}" for row in rows}
        found.append({"precision": precision, "steps": steps, **scores})
    return found


SECTIONS: dict[str, Callable[[Proof], Rows]] = {
    "The machine": machine,
    "First terms, here and on the CPU": against_the_cpu,
    "Step times": step_times,
    "Beside a plain loop": plain_loop,
    "Together": together,
    "Waits for the GPU": waits,
    "The same bits": same_bits,
    "Resumed": resumed,
    "Pairs a second": pairs_a_second,
    "One rank": one_rank,
    "Out of memory": out_of_memory,
    "A dead context": dead_context,
    "Fast teacher": fast_teacher,
    "Compiled": compiled,
    "Kernels of sstkd": kernels,
    "A short quickstart": quickstart,
}


def shown(value: Any) -> str:
    """A cell."""
    return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "/")


def table(rows: Rows) -> str:
    """Rows as Markdown; the columns are those of all rows, in the order in which they come."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(shown(row.get(name, '')) for name in columns)} |" for row in rows)])


def prove(proof: Proof, to: Path) -> bool:
    """Run the sections, and write what they found after each; whether all that were run succeeded."""
    sound, page = True, []
    for heading, section in SECTIONS.items():
        began = time.monotonic()
        if began > proof.until:
            text = said = "not run: the time was up"
        else:
            try:
                said = section(proof)
                text = table(said)
            except NotHere as error:
                text = said = f"not run: {error}"
            except Exception as error:
                sound = False
                traceback.print_exc()
                text = said = f"failed: {type(error).__name__}: {error}"
        proof.results[heading] = said
        page.append(f"## {heading}\n\n{text}\n\n{time.monotonic() - began:.0f} s\n")
        print(page[-1], flush=True)
        (to / "prove.json").write_text(json.dumps(proof.results, indent=1, default=str))
        (to / "prove.md").write_text("\n".join(page))
    return sound


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=9.0, help="no section is begun after so many")
    parser.add_argument("--to", type=Path, default=Path("prove"), help="folder of what it writes")
    parser.add_argument("--toy", action="store_true", help="tiny networks")
    given = parser.parse_args(arguments)
    given.to.mkdir(parents=True, exist_ok=True)
    folder = given.to / "work"
    folder.mkdir(exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    until = time.monotonic() + 60 * given.minutes
    return 0 if prove(Proof(device, TOY if given.toy else LARGE, folder, until), given.to) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
