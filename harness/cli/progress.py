"""Progress on the terminal: a live screen, or plain lines when the output is not a terminal.

An update costs as much as there are runs that run or have just changed, however many the experiment has.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.execution.status import ENDED, Changes, Looker, Status, Why
from harness.experiment.spec import Run
from harness.training.progress import Progress

LINE_SECONDS = 10.0  # between plain lines of one run, at least
ANY_LINE_SECONDS = 1.0  # between plain lines of any runs that are still running
MESSAGE_LENGTH = 200  # of why a run failed; the row has the whole text
BAR = 16  # characters of a run's bar
NODE = 12  # characters that tell a node; Ray's ids have 56


class Display:
    """Show a `Status` about twice a second: `with Display(console) as show: run_all(..., on_update=show)`.

    Args:
        console: where to.
        why: asked for the reason when a run fails.
    """

    def __init__(self, console: Console, why: Why = lambda run_id: None) -> None:
        self.console = console
        self._why = why
        self._began = time.monotonic()
        live = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, auto_refresh=False, transient=True) if live else None
        self._looker = Looker()
        self._said: dict[str, float] = {}  # when there was last a line of a run that runs
        self._last = self._began  # ... of any run that is still running
        self._pairs: frozenset[str] | None = None

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Remove the live screen; the lines above it stay."""
        if self._live is not None:
            self._live.stop()

    def __call__(self, status: Status) -> None:
        """Show the status as it is now."""
        changes, now = self._looker.look(status), time.monotonic()
        for note in changes.notes:
            self._print(f"note: {note}")
        if changes.doing:
            self.say(changes.doing)
        for run_id, run in changes.ended:
            self._said.pop(run_id, None)
            self._print(self._line(run_id, run, status, now), failed=status.state[run_id] == "failed")
        if self._live is None:
            self._lines(changes, status, now)
        else:
            if self._pairs is None:
                self._pairs = frozenset(run.pair for run in status.runs)  # once: there may be thousands
            size = self.console.size
            shown = screen(status, self._pairs, size.width, size.height, now - self._began)
            self._live.update(shown, refresh=True)

    def say(self, text: str) -> None:
        """A line on what is done before the first run begins."""
        self._print(f"[{clock(time.monotonic() - self._began)}] {text}")

    def _lines(self, changes: Changes, status: Status, now: float) -> None:
        """A line when a run begins, and in turn every few seconds: about one a second at most, however many run."""
        for run_id, run in changes.begun:
            if run_id in status.running:
                self._said[run_id] = now
                self._print(self._line(run_id, run, status, now))
        self._said = {run_id: when for run_id, when in self._said.items() if run_id in status.running}
        if not self._said or now - self._last < ANY_LINE_SECONDS:
            return
        run_id = min(self._said, key=self._said.__getitem__)
        if now - self._said[run_id] >= LINE_SECONDS:
            self._said[run_id] = self._last = now
            self._print(self._line(run_id, status.running[run_id], status, now))

    def _print(self, line: str, failed: bool = False) -> None:
        self.console.print(
            f"[red]{escape(line)}[/red]" if failed else escape(line), highlight=False, soft_wrap=True, emoji=False
        )

    def _line(self, run_id: str, run: Run, status: Status, now: float) -> str:
        p, state = status.progress.get(run_id, Progress()), status.state[run_id]
        parts = [f"[{clock(now - self._began)}] {run.pair} {run_name(run)}: {state}"]
        if p.note is not None:
            parts.append(p.note)
        if p.step is not None:
            parts.append(f"step {p.step}/{p.steps}")
        if p.loss is not None:
            parts.append(f"loss {p.loss:.3f}")
        if p.dev_miou is not None:
            parts.append(f"dev mIoU {100 * p.dev_miou:.1f}")
        parts.append(f"{_ended(status)}/{status.total} runs, ETA {clock(status.eta_seconds())}")
        if state == "failed" and (why := self._why(run_id)):
            parts.append(" ".join(why.split())[:MESSAGE_LENGTH])
        return "  ".join(parts)


def run_name(run: Run) -> str:
    """`cwd seed 1`, `cwd trial 3 seed 1000`, or `teacher`; the pair is shown beside it."""
    if run.trial is not None:  # its label has the whole point
        return f"{run.trial.method} trial {run.trial.number + 1} seed {run.seed}"
    return run.who if run.role == "teacher" else f"{run.who} seed {run.seed}"


def clock(seconds: float | None) -> str:
    """`3:07`, `1:02:09`, or `?` when unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def number(value: float) -> str:
    """A loss in few characters: `12.3`, `0.45`, `3e-05`."""
    size = abs(value)
    if size >= 1e4 or 0 < size < 0.005:
        return f"{value:.0e}"
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def device_text(device: Mapping[str, float | None] | None) -> str:
    """`1.2G 98%`: memory in GiB, and utilization where it is known."""
    if not device or device.get("memory_mb") is None:
        return ""
    percent = device.get("utilization")
    return f"{(device['memory_mb'] or 0) / 1024:.1f}G" + ("" if percent is None else f" {percent:3.0f}%")


def screen(status: Status, pairs: Collection[str], width: int, height: int, elapsed: float) -> Group:
    """What the terminal shows: a bar over all runs, counts, and a line for each run that runs, as many as fit.

    Args:
        status: of the experiment.
        pairs: the names of all its pairs.
        width, height: of the terminal, in characters.
        elapsed: seconds since the command began.
    """
    parts: list[RenderableType] = [_overall(status, width, elapsed), _counts(status, pairs)]
    room = max(1, height - len(parts) - 2)  # the table's head, and the line the cursor stands on
    shown = list(islice(status.running, room if len(status.running) <= room else max(1, room - 1)))
    if shown:
        parts.append(_table(status, shown, width, len(pairs) > 1))
    if more := len(status.running) - len(shown):
        parts.append(Text(f"... and {more} more running", style="dim"))
    return Group(*parts)


def _ended(status: Status) -> int:
    """How many runs have ended, in this session or before."""
    return sum(status.counts[state] for state in ENDED)


def _fraction(progress: Progress) -> float:
    return progress.step / progress.steps if progress.steps and progress.step is not None else 0.0


def _overall(status: Status, width: int, elapsed: float) -> Table:
    text = f"{_ended(status)}/{status.total} runs  {clock(elapsed)} elapsed  ETA {clock(status.eta_seconds())}"
    done = _ended(status) + sum(_fraction(status.progress.get(run_id, Progress())) for run_id in status.running)
    bar = [ProgressBar(total=max(1, status.total), completed=done, width=30)] if width >= 80 else []
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_row(_text(text), *bar)
    return grid


def _counts(status: Status, pairs: Collection[str]) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    colours = {"ok": "green", "failed": "red", "skipped": "yellow"}
    for state in ("ok", "failed", "skipped", "running", "waiting"):
        if (count := status.counts[state]) or state != "skipped":
            text.append(f"{count} {state}  ", style=colours.get(state, "") if count else "dim")
    if status.nodes > 1:
        text.append(f"on {status.nodes} nodes  ")
    if len(pairs) == 1:
        text.append("".join(pairs), style="dim")
    return text


Cell = Callable[[Run, Progress], RenderableType]
# Title, least width of the terminal that has room for it, cell. Long texts end in an ellipsis where there is less room.
COLUMNS: tuple[tuple[str, int, Cell], ...] = (
    ("pair", 70, lambda run, p: _text(run.pair)),
    ("run", 0, lambda run, p: _text(run.who)),
    ("seed", 0, lambda run, p: "" if run.role == "teacher" else str(run.seed)),
    ("step", 0, lambda run, p: "starting" if p.step is None else f"{p.step}/{p.steps}"),
    ("", 110, lambda run, p: ProgressBar(total=1.0, completed=_fraction(p), width=BAR)),
    ("loss", 0, lambda run, p: "" if p.loss is None else f"{p.loss:.3f}"),
    ("terms", 120, lambda run, p: _text(" ".join(f"{k} {number(v)}" for k, v in (p.terms or {}).items()))),
    ("dev mIoU", 50, lambda run, p: "" if p.dev_miou is None else f"{100 * p.dev_miou:.1f}"),
    ("s/step", 60, lambda run, p: "" if p.step_ms is None else f"{p.step_ms / 1e3:.3f}"),
    ("device", 90, lambda run, p: device_text(p.device)),
    ("node", 80, lambda run, p: str(p.node or "")[:NODE]),
)
LEFT = ("pair", "run", "terms", "node")


def _text(text: str) -> Text:
    """In one line; not as a string, since a label may hold [...], which is markup there."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def _table(status: Status, shown: Sequence[str], width: int, several_pairs: bool) -> Table:
    hidden = {title for title, is_shown in (("pair", several_pairs), ("node", status.nodes > 1)) if not is_shown}
    columns = [column for column in COLUMNS if width >= column[1] and column[0] not in hidden]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title, _, _ in columns:
        justify: Any = "left" if title in LEFT else "right"
        table.add_column(title, justify=justify, no_wrap=title not in LEFT, overflow="ellipsis")
    for run_id in shown:
        progress = status.progress.get(run_id, Progress())
        table.add_row(*(cell(status.running[run_id], progress) for _, _, cell in columns))
    return table
