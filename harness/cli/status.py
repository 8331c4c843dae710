"""The command `sstkd-bench status`: what runs, where, how far, since when, and what failed; for a second terminal."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from harness.borders import terminal
from harness.cli.common import DEFAULT_RESULTS, File, Results, Set, answering, bench

if TYPE_CHECKING:
    from harness.bench import Bench

SHOWN = 20
MESSAGE_LENGTH = 300
LINE_LENGTH = 5000
OLD_SECONDS = 60.0


def status(file: File, overrides: Set = None, results: Results = DEFAULT_RESULTS) -> None:
    """Show what a running experiment does, from its results folder; needs no Ray. Exit code 1 if a run failed."""
    with answering():
        from harness.results.paths import search_folder, times_folder

        wanted = bench(file, overrides, results, reading=True)
        states = _states(wanted)
        counts = {
            state: list(states.values()).count(state) for state in ("ok", "failed", "skipped", "waiting", "stale")
        }
        said = ", ".join(f"{count} {state}" for state, count in counts.items() if count or state in ("ok", "failed"))
        typer.echo(f"{wanted.directory}: {len(states)} runs: {said}")
        folders = (wanted.directory, times_folder(wanted.directory), search_folder(wanted.directory))
        told = [text for folder in folders for text in _command(folder)]
        failed = _failures(wanted, states)
        for line in [*(told or ["no command has run in this folder, or its status.json was removed"]), *failed]:
            typer.echo(terminal(line.replace("\n", " "))[:LINE_LENGTH])
    if failed:
        raise typer.Exit(1)


def _states(wanted: "Bench") -> dict[str, str]:
    """By run_id; of the teachers alone as long as a search has not found what the students are."""
    if wanted.experiment.search is not None:
        from harness.experiment.plan import outline
        from harness.search import outcome

        found = outcome.outcomes(wanted.experiment, wanted.directory)
        if not all(each.complete for each in found):
            typer.echo(f"{sum(len(each.trials) for each in found)} of {sum(each.wanted for each in found)} trials")
            rows = {run_id: standing.state for run_id, standing in wanted.standings().items()}
            teachers = [run.run_id for run in outline(wanted.experiment) if run.role == "teacher"]
            return {run_id: rows.get(run_id, "waiting") for run_id in teachers}
    return wanted.states()


def _command(folder: Path) -> list[str]:
    """What the command that works, or worked, in a folder says of itself."""
    from harness.execution import status_file

    found = status_file.read(folder)
    if found is None:
        return []
    now = time.time()
    who = f"process {found['pid']} on {found['host']}, for {_span(now - found['began'])}"
    age = f"as of {_span(now - found['written'])} ago"
    alive = status_file.is_alive(found)
    if found["ended"]:
        return [f"{folder}: no command runs; the last one ended {_span(now - found['written'])} ago"]
    if alive is False:
        return [
            f"{folder}: no command runs; the last one ({who.partition(',')[0]}) died, {age}. "
            "Re-run the same command to resume"
        ]
    lines = [f"{folder}: {who}, {age}" + (": " + found["doing"] if found["doing"] else "")]
    if now - found["written"] > OLD_SECONDS:
        lines.append("it has not reported for longer than usual: the machine may be busy, or the process stopped")
    counts, eta = found.get("counts"), found.get("eta_seconds")
    if isinstance(counts, Mapping):
        left = f", ETA {_span(eta)}" if isinstance(eta, float) else ""
        lines.append(f"{counts.get('running', 0)} running, {counts.get('waiting', 0)} waiting{left}")
    lines += [_line(each, now) for each in found["running"][:SHOWN]]
    if more := len(found["running"]) - SHOWN:
        lines += [f"  ... and {more} more"] if more > 0 else []
    return lines


def _line(each: Mapping[str, Any], now: float) -> str:
    name = "teacher" if each.get("role") == "teacher" else f"{each.get('method')} seed {each.get('seed')}"
    step = "starting" if each.get("step") is None else f"step {each['step']}/{each.get('steps')}"
    parts = [f"  {each.get('pair')} {name}: {step}"]
    if isinstance(score := each.get("dev_miou"), float):
        parts.append(f"dev mIoU {100 * score:.1f}")
    if isinstance(ms := each.get("step_ms"), float):
        parts.append(f"{ms / 1e3:.3f} s/step")
    if isinstance(since := each.get("since"), float):
        parts.append(f"for {_span(now - since)}")
    if node := each.get("node"):
        parts.append(f"on node {str(node)[:12]}")
    return "  ".join(parts)


def _failures(wanted: "Bench", states: Mapping[str, str]) -> list[str]:
    """A line for each run that failed: which, why, and where its traceback is."""
    from harness.results import store
    from harness.results.paths import failure_path

    failed = [run_id for run_id, state in states.items() if state == "failed"]
    if not failed:
        return []
    columns = ["run_id", "pair", "role", "method", "seed", "message"]
    rows = store.read_rows(wanted.directory, columns, "failed", failed).to_pylist()
    lines = [f"{len(rows)} failed:"]
    for row in rows[:SHOWN]:
        name = "teacher" if row["role"] == "teacher" else f"{row['method']} seed {row['seed']}"
        lines.append(f"  {row['pair']} {name}: {row['message'][:MESSAGE_LENGTH]}")
        path = failure_path(wanted.directory, row["run_id"])
        if path.is_file():
            lines.append(f"    {path}")
    return lines + ([f"  ... and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else [])


def _span(seconds: float) -> str:
    """`12 s`, `3:07 min`, `2:05 h`."""
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02} h"
