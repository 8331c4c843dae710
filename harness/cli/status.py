"""The command `sstkd-bench status`: what runs, where, how far, since when, and what failed; for a second terminal."""

import math
import time
from collections import Counter
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
ALWAYS = ("ok", "failed")
"""States that are counted even where no run is in them."""


def status(file: File, overrides: Set = None, results: Results = DEFAULT_RESULTS) -> None:
    """Show what a running experiment does, in a second terminal.

    It is read from the results folder and needs no Ray. Exit code 1 if a run failed.
    """
    with answering():
        from harness.results.paths import search_folder, times_folder

        wanted = bench(file, overrides, results, reading=True)
        folders = (wanted.directory, times_folder(wanted.directory), search_folder(wanted.directory))
        told = [text for folder in folders for text in _command(folder)]
        told = told or [
            "no command has run in this folder on this machine, or its status.json was removed; of a job that was "
            "submitted the log tells, which `sstkd-bench submit` with the same arguments follows again"
        ]
        try:
            states = dict(zip(folders, (_states(wanted), _timing(wanted), _trials(wanted)), strict=True))
        except ValueError:  # of the rows; what runs is said all the same
            for line in told:
                _say(line)
            raise
        failed = [text for folder in folders for text in _failures(folder, states[folder])]
        for line in (*told, *failed):
            _say(line)
    if failed:
        raise typer.Exit(1)


def _say(line: str) -> None:
    typer.echo(terminal(line.replace("\n", " "))[:LINE_LENGTH])


def _counted(folder: Path, what: str, states: Mapping[str, str], wanted: int | None = None) -> Mapping[str, str]:
    """Say how many runs are in which state."""
    found = Counter(states.values())
    if wanted is not None and wanted > len(states):
        found["waiting"] = wanted - len(states)
    names = [state for state in ("ok", "failed", "skipped", "waiting", "stale") if found[state] or state in ALWAYS]
    said = ", ".join(f"{found[state]} {state}" for state in names)
    _say(f"{folder}: {found.total()} {what}: {said}")
    return states


def _states(wanted: "Bench") -> Mapping[str, str]:
    """The runs by run_id; the teachers alone as long as what the students are is not known."""
    from harness.experiment.plan import outline

    try:
        return _counted(wanted.directory, "runs", wanted.states())
    except ValueError as error:
        if wanted.experiment.search is None:
            raise
        # The search has not found all points, or cannot: its own lines below, and `run --from-search`, say why.
        rows = wanted.standings()
        ids = [run.run_id for run in outline(wanted.experiment) if run.role == "teacher"]
        states = {run_id: rows[run_id].state if run_id in rows else "waiting" for run_id in ids}
        _counted(wanted.directory, "runs", states)
        _say(f"  teachers only; the students follow from the search: {str(error).splitlines()[0]}")
        return states


def _timing(wanted: "Bench") -> Mapping[str, str]:
    """The runs that time a step, where runs follow from step times."""
    from harness.experiment import rules
    from harness.experiment.plan import timing_runs
    from harness.results import store
    from harness.results.paths import times_folder

    if not rules.needs_times(wanted.experiment):
        return {}
    folder = times_folder(wanted.directory)
    rows = store.finished(folder)
    states = {run.run_id: rows.get(run.run_id, "waiting") for run in timing_runs(wanted.experiment)}
    return _counted(folder, "timing runs", states)


def _trials(wanted: "Bench") -> Mapping[str, str]:
    """The trials of a search that have ended."""
    if wanted.experiment.search is None:
        return {}
    from harness.results.paths import search_folder
    from harness.search import outcome

    found = outcome.outcomes(wanted.experiment, wanted.directory)
    states = {trial.run_id: trial.status for each in found for trial in each.trials}
    asked = sum(len(each.trials) if each.complete else each.wanted for each in found)
    return _counted(search_folder(wanted.directory), "trials", states, asked)


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
    if now - found["written"] > status_file.OLD_SECONDS:
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
    name = _name(each)
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


def _name(each: Mapping[str, Any]) -> str:
    if each.get("role") == "teacher":
        return f"teacher {each['seed']}" if each.get("seed") else "teacher"  # as `Run.who`
    trial, teacher = each.get("trial"), each.get("teacher_seed")
    taught = f" teacher {teacher}" if isinstance(teacher, int) else ""
    return f"{each.get('method')}{taught} " + (
        f"trial {trial + 1}" if isinstance(trial, int) else f"seed {each.get('seed')}"
    )


def _failures(folder: Path, states: Mapping[str, str]) -> list[str]:
    """A line for each run that failed: which, why, and where its traceback is."""
    from harness.results import store
    from harness.results.paths import failure_path

    failed = [run_id for run_id, state in states.items() if state == "failed"]
    if not failed:
        return []
    columns = ["run_id", "pair", "role", "method", "seed", "trial", "message"]
    rows = store.read_rows(folder, columns, "failed", failed).to_pylist()
    lines = [f"{folder}: {len(rows)} failed:"]
    for row in rows[:SHOWN]:
        lines.append(f"  {row['pair']} {_name(row)}: {row['message'][:MESSAGE_LENGTH]}")
        path = failure_path(folder, row["run_id"])
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
