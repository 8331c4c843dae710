"""The live screen: a bar over all runs, and a line for each run that runs, as many as fit."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.execution.status import ENDED, Status
from harness.experiment.spec import Run
from harness.training.progress import Progress

GAP = 2  # columns between the table's columns
BAR = 24  # widest bar of a run
NARROWEST = 5  # bar of the whole
NODE = 12  # characters that tell a node; Ray's ids have 56
# What gives way when the window is narrow, in this order: a column is cut to so many characters, 0 takes it away.
CUTS = (
    *(("terms", 24), ("run", 22), ("bar", 6), ("pair", 12), ("terms", 16), ("run", 18), ("node", 6), ("terms", 9)),
    *(("pair", 8), ("terms", 0), ("run", 14), ("bar", 0), ("node", 0), ("device", 0), ("s/step", 0), ("pair", 0)),
    ("run", 10),
)
TAIL = 8  # characters at a text's end that stay when it is cut, such as its seed
RIGHT = ("step", "loss", "dev mIoU", "s/step", "device")


def run_name(run: Run) -> str:
    """`cwd seed 1`, or `teacher`; the pair is shown beside it."""
    return "teacher" if run.role == "teacher" else f"{run.label} seed {run.seed}"


def clock(seconds: float | None) -> str:
    """`3:07`, `1:02:09`, or `?` when unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def counted(status: Status) -> int:
    """How many runs have ended, in this session or before."""
    return sum(status.counts[state] for state in ENDED)


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


@dataclass
class _Column:
    """A column of the table: its cells and how many characters it has."""

    cells: list[str]
    width: int


def screen(status: Status, pairs: Collection[str], width: int, height: int, elapsed: float) -> Group:
    """What the terminal shows now.

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


def _overall(status: Status, width: int, elapsed: float) -> Table:
    text = f"{counted(status)}/{len(status.runs)} runs  {clock(elapsed)} elapsed  ETA {clock(status.eta_seconds())}"
    done = counted(status) + sum(_fraction(status.progress.get(run_id, Progress())) for run_id in status.running)
    grid = Table.grid(padding=(0, GAP, 0, 0))
    cells: list[RenderableType] = [Text(text, no_wrap=True, overflow="ellipsis")]
    if (room := width - len(text) - GAP) >= NARROWEST:
        cells.insert(0, ProgressBar(total=max(1, len(status.runs)), completed=done, width=min(60, room)))
    grid.add_row(*cells)
    return grid


def _fraction(progress: Progress) -> float:
    return progress.step / progress.steps if progress.steps and progress.step is not None else 0.0


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


def _table(status: Status, shown: Sequence[str], width: int, several_pairs: bool) -> Table:
    rows = [(status.running[run_id], status.progress.get(run_id, Progress())) for run_id in shown]
    columns = _columns(rows, several_pairs, several_nodes=status.nodes > 1)
    _fit(columns, width)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title, column in columns.items():
        table.add_column(
            "" if title == "bar" else title,
            justify="right" if title in RIGHT else "left",
            width=column.width,
            no_wrap=True,
            overflow="ellipsis",
        )
    for i, (_, progress) in enumerate(rows):
        cells: list[RenderableType] = []
        for title, column in columns.items():
            if title == "bar":
                cells.append(ProgressBar(total=1.0, completed=_fraction(progress), width=column.width))
            elif title == "terms":
                cells.append(_terms(progress, column.width))
            else:
                cells.append(
                    Text(_cut(column.cells[i], column.width))
                )  # a label may hold [...], which rich would read as markup
        table.add_row(*cells)
    return table


def _columns(rows: Sequence[tuple[Run, Progress]], several_pairs: bool, several_nodes: bool) -> dict[str, _Column]:
    """The columns as wide as their texts."""
    texts = {
        "pair": [run.pair for run, _ in rows] if several_pairs else [],
        "run": [run_name(run) for run, _ in rows],
        "step": ["starting" if p.step is None else f"{p.step}/{p.steps}" for _, p in rows],
        "bar": [" " * BAR] * len(rows),
        "loss": ["" if p.loss is None else f"{p.loss:.3f}" for _, p in rows],
        "terms": [_terms(p, 1000).plain for _, p in rows],
        "dev mIoU": ["" if p.dev_miou is None else f"{100 * p.dev_miou:.1f}" for _, p in rows],
        "s/step": ["" if p.step_ms is None else f"{p.step_ms / 1e3:.3f}" for _, p in rows],
        "device": [device_text(p.device) for _, p in rows],
        "node": [str(p.node or "")[:NODE] for _, p in rows] if several_nodes else [],
    }
    return {
        title: _Column(cells, max(cell_len(text) for text in (*cells, title)))
        for title, cells in texts.items()
        if any(cells)
    }


def _fit(columns: dict[str, _Column], width: int) -> None:
    """Cut columns, or take them away, until all fit."""
    for title, least in CUTS:
        excess = sum(column.width + GAP for column in columns.values()) - GAP - width
        if excess <= 0:
            return
        if title in columns:
            columns[title].width = min(columns[title].width, max(least, columns[title].width - excess))
            if least == 0:
                del columns[title]


def _terms(progress: Progress, width: int) -> Text:
    """`task 1.23 kd 0.45`: as many terms as fit."""
    text = ""
    for name, value in (progress.terms or {}).items():
        longer = f"{text} {name} {number(value)}".lstrip()
        if cell_len(longer) > width:
            break
        text = longer
    return Text(text)


def _cut(text: str, width: int) -> str:
    """The text in so many characters, without its middle if need be."""
    if len(text) <= width:
        return text
    tail = min(TAIL, (width - 1) // 2)
    return f"{text[: width - 1 - tail]}…{text[-tail:]}"
