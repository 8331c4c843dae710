"""Progress on the terminal: a live screen, or plain lines when the output is not a terminal.

An update costs as much as there are runs that run or have just changed, however many the experiment has.
"""

import time

from rich.console import Console
from rich.live import Live
from rich.markup import escape

from harness.cli.screen import clock, counted, run_name, screen
from harness.execution.status import Changes, Looker, Status, Why
from harness.experiment.spec import Run
from harness.training.progress import Progress

LINE_SECONDS = 10.0  # between plain lines of one run, at least
ANY_LINE_SECONDS = 1.0  # between plain lines of any runs that just go on
MESSAGE_LENGTH = 200  # of why a run failed; the row has the whole text


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
        self._last = self._began  # ... of any run that just goes on
        self._pairs: frozenset[str] | None = None

    def __enter__(self) -> "Display":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, status: Status) -> None:
        """Bring the screen up to date."""
        changes, now = self._looker.look(status), time.monotonic()
        for note in changes.notes:
            self._print(f"note: {note}")
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
        parts.append(f"{counted(status)}/{len(status.runs)} runs, ETA {clock(status.eta_seconds())}")
        if state == "failed" and (why := self._why(run_id)):
            parts.append(" ".join(why.split())[:MESSAGE_LENGTH])
        return "  ".join(parts)
