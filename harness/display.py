"""Progress on the terminal: a live table, or plain lines when the output is not a terminal."""

import time
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.spec import Run

if TYPE_CHECKING:
    from harness.launch import Status

LINE_SECONDS = 10.0  # between plain lines of one run


def run_name(run: Run) -> str:
    """`cwd seed 1`, or `teacher`; the pair is shown beside it."""
    return "teacher" if run.role == "teacher" else f"{run.method.label} seed {run.seed}"


def clock(seconds: float | None) -> str:
    """`3:07`, `1:02:09`, or `?` when unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Display:
    """Show a `Status` about twice a second: `with Display(console) as show: run_all(..., on_update=show)`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.began = time.monotonic()
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        self._said: dict[str, tuple[str, float]] = {}
        self._notes = 0

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, status: "Status") -> None:
        """Bring the screen up to date."""
        for note in status.notes[self._notes :]:
            self.console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
        self._notes = len(status.notes)
        for run in status.runs:
            self._say(run, status)
        if self._live is not None:
            self._live.update(self._screen(status))

    def _say(self, run: Run, status: "Status") -> None:
        """One plain line when a run ends; without a terminal also when it begins and every few seconds."""
        state, now = status.state[run.run_id], time.monotonic()
        before, when = self._said.get(run.run_id, (state if state in ("ok", "failed") else "waiting", 0.0))
        due = state == "running" and self._live is None and now - when >= LINE_SECONDS
        if state != before or due:
            self._said[run.run_id] = (state, now)
            if state in ("ok", "failed") or self._live is None:
                self.console.print(self._line(run, status), markup=False, highlight=False, soft_wrap=True)
        else:
            self._said.setdefault(run.run_id, (state, when))

    def _line(self, run: Run, status: "Status") -> str:
        p = status.progress.get(run.run_id, {})
        parts = [f"[{clock(time.monotonic() - self.began)}] {run.pair} {run_name(run)}: {status.state[run.run_id]}"]
        if "note" in p:
            parts.append(str(p["note"]))
        if "step" in p:
            parts.append(f"step {p['step']}/{p['steps']}  loss {p['loss']:.3f}")
            if p["dev_miou"] is not None:
                parts.append(f"dev mIoU {100 * p['dev_miou']:.1f}")
        ended = sum(s in ("ok", "failed", "skipped") for s in status.state.values())
        parts.append(f"{ended}/{len(status.runs)} runs, ETA {clock(status.eta_seconds())}")
        return "  ".join(parts)

    def _screen(self, status: "Status") -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("pair", "run", "step", "", "loss", "dev mIoU", "s/step"):
            table.add_column(name, justify="left" if name in ("pair", "run", "") else "right", no_wrap=True)
        for run in status.runs:
            if status.state[run.run_id] != "running":
                continue
            p = status.progress.get(run.run_id, {})
            miou, ms = p.get("dev_miou"), p.get("step_ms")
            table.add_row(
                run.pair,
                Text(run_name(run)),  # a label may hold [...], which rich would read as markup
                f"{p['step']}/{p['steps']}" if "step" in p else "starting",
                ProgressBar(total=run.train.steps, completed=p.get("step", 0), width=24),
                f"{p['loss']:.3f}" if "loss" in p else "",
                f"{100 * miou:.1f}" if miou is not None else "",
                f"{ms / 1e3:.3f}" if ms is not None else "",
            )
        states = list(status.state.values())
        ended, failed = sum(s in ("ok", "failed", "skipped") for s in states), states.count("failed")
        head = f"{ended} of {len(states)} runs finished"
        head += f" ({failed} failed)" if failed else ""
        head += f", {states.count('running')} running, {clock(time.monotonic() - self.began)} elapsed"
        head += f", about {clock(status.eta_seconds())} left"
        return Group(Text(head), table)
