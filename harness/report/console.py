"""Tables on the terminal: as wide as it is, and into a file or a pipe one line per row."""

import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.borders import one_line, terminal, unguarded

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid

    from harness.analysis.sheets import Section, Sheet
    from harness.analysis.tables import Table

_Key = TypeVar("_Key")
MAX_FOLDED = 1_000
"""Rows up to which texts of a table that is too wide for the terminal are broken, which is slow."""
_HEAD = 16
"""Letters of a line of a column's head where a table is too wide."""
_NAME = 16
"""Letters that a line's name has in any window."""
_TEXT = 30
"""Letters of a line of a text where a table is too wide."""
_TONES = {"better": "green", "worse": "magenta", "": ""}


def output(stderr: bool = False) -> "Console":
    """A console: as wide as the terminal; into a file or a pipe wide enough that nothing is folded.

    Texts from rows and files reach the terminal through it: what a terminal would obey is written out.
    """
    from rich.console import Console
    from rich.segment import Segment

    class Safe(Console):
        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else terminal(text), style, control)

    console = Safe(file=unguarded(sys.stderr if stderr else sys.stdout))
    if not console.is_terminal and not stderr:
        console.width = 10_000
    return console


def print_columns(columns: list[str], rows: list[list[str]], right: tuple[str, ...] = (), whole: str = "") -> None:
    """A table as wide as the terminal; into a file or a pipe one line per row.

    In a narrow window texts, which are columns that are not aligned right, are broken between words. Where that is not
    enough, columns go below, each part with the first column.

    Args:
        columns: their names.
        rows: a text for each column.
        right: the columns that are aligned right: numbers, which are never broken.
        whole: how a row is shown whole. If given, columns are left out in place of broken or put below, and named:
            those with the same in every row, then those that do not fit.
    """
    console = output()
    # Each different cell is looked at once: of thousands of rows most have the same.
    cells = {cell: one_line(cell) for cell in set(chain.from_iterable(rows))}
    sides = {name: [cells[row[i]] for row in rows] for i, name in enumerate(columns)}
    # Only texts that are not ASCII may be wider than long.
    widths = {text: _width(text) for text in (*columns, *cells.values())}
    wide = {name: max(widths[text] for text in (name, *set(side))) for name, side in sides.items()}
    said: list[str] = []
    if whole and _total(wide.values()) > console.width:
        sides, said = _left_out(sides, wide, console.width, whole)
    least = {name: wide[name] for name in sides}
    broken = _total(least.values()) > console.width and len(rows) <= MAX_FOLDED
    if broken:
        least |= {name: _narrowest(name, side) for name, side in sides.items() if name not in right}
    for i, part in enumerate(_parts_of(least, console.width)):
        if i:
            console.print()
        shown = {name: sides[name] for name in part}
        if broken and _total(wide[name] for name in part) > console.width:
            _print_broken(shown, least, right, console)
        else:
            _print_lines(shown, wide, widths, right, console)
    for text in said:
        console.print(text, style="dim", markup=False, highlight=False)


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _total(widths: Iterable[int]) -> int:
    """Of columns side by side."""
    each = list(widths)
    return sum(each) + 2 * (len(each) - 1)


def _narrowest(name: str, side: Sequence[str]) -> int:
    """Of a column of texts: its longest word, and where it has long texts as much as reads well."""
    texts = {name, *side}
    words = max(_width(word) for text in texts for word in (text.split() or [""]))
    return max(words, min(_TEXT, max(map(_width, texts))))


def _parts_of(widths: Mapping[_Key, int], width: int) -> Iterator[list[_Key]]:
    """The columns in parts that fit, each with the first column."""
    names = list(widths)
    part: list[_Key] = names[:1]
    for name in names[1:]:
        if len(part) > 1 and _total(widths[each] for each in (*part, name)) > width:
            yield part
            part = names[:1]
        part.append(name)
    yield part


def _left_out(
    sides: Mapping[str, list[str]], wide: Mapping[str, int], width: int, whole: str
) -> tuple[dict[str, list[str]], list[str]]:
    """The columns that differ between rows and fit, from the left, and what is said of the others."""
    same = {name: side[0] for name, side in sides.items() if len(side) > 1 and len(set(side)) == 1}
    kept: list[str] = []
    for name in sides:
        if name not in same and (not kept or _total(wide[x] for x in (*kept, name)) <= width):
            kept.append(name)
    said = []
    if values := [f"{name} {value}" for name, value in same.items() if value]:
        said.append(f"In every row: {', '.join(values)}.")
    if empty := [name for name, value in same.items() if not value]:
        said.append(f"Empty in every row: {', '.join(empty)}.")
    if others := [name for name in sides if name not in same and name not in kept]:
        said.append(f"Too wide for this window: {', '.join(others)}. A pipe (| cat) shows every column; {whole}.")
    return {name: sides[name] for name in kept}, said


def _print_lines(
    sides: Mapping[str, list[str]],
    wide: Mapping[str, int],
    widths: Mapping[str, int],
    right: tuple[str, ...],
    console: "Console",
) -> None:
    """One line per row."""
    from rich.text import Text

    filled = []
    for name, side in sides.items():
        texts = [name, *side]
        fill = {text: " " * (wide[name] - widths[text]) for text in set(texts)}
        filled.append([fill[text] + text if name in right else text + fill[text] for text in texts])
    head, *lines = [f"{'  '.join(line).rstrip()}\n" for line in zip(*filled, strict=True)]
    console.print(Text(head[:-1], style="dim"), soft_wrap=True)
    console.file.write("".join(lines))


def _print_broken(
    sides: Mapping[str, list[str]], narrow: Mapping[str, int], right: tuple[str, ...], console: "Console"
) -> None:
    """Texts broken between words, and only a word that is wider than the terminal within it."""
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=None, pad_edge=False, header_style="dim")
    for name in sides:
        fixed = name in right
        least = min(narrow[name], console.width)
        grid.add_column(
            Text(name), justify="right" if fixed else "left", overflow="fold", no_wrap=fixed, min_width=least
        )
    for row in zip(*sides.values(), strict=True):
        grid.add_row(*map(Text, row))  # cells may hold [...], which is markup in plain strings
    console.print(grid)


def print_table(
    table: "Table",
    console: "Console | None" = None,
    directory: str | Path | None = None,
    more: "Sequence[Sheet]" = (),
) -> None:
    """Print the comparison on the terminal.

    Args:
        table: what `quick_table` returns.
        console: where to; standard output when not given.
        directory: the experiment's directory; when given, the lines below the table say where rows, plots and page are.
        more: tables below it.
    """
    from rich.text import Text

    console = console or output()
    for one in table.sheets():
        print_sheet(one, console)
    console.print(Text("\n" + table.below, style="dim"))
    for one in more:
        print_sheet(one, console)
    if directory is not None:
        base = Path(directory)
        for what, name in (("rows", "runs"), ("table", "table.md"), ("curves", "curves.png"), ("page", "report.html")):
            console.print(Text(f"{what:7}{base / name}"), soft_wrap=True)


def print_sheet(one: "Sheet", console: "Console | None" = None) -> None:
    """Print a table with all remarks on it.

    Of a table that is too wide, heads are broken, long names are shortened and explained, and columns that do not fit
    go below, each part with the names. A cell is broken only where it does not fit beside a name by itself.
    """
    from rich.text import Text

    from harness.analysis.short_names import with_short_names

    console = console or output()
    broken = _total(_widths(one, _unbroken).values()) > console.width
    if broken:
        others = max((width for i, width in _widths(one, _head).items() if i), default=0)
        half = console.width // 2
        one = with_short_names(one, half, max(_NAME, min(half + 4, console.width - 2 - others)))
    console.print(Text(f"\n{one.title}", style="bold"))
    _say([section for section in one.sections if section.above], console)
    widths = _widths(one, _head if broken else _unbroken)
    for i, part in enumerate(_parts_of(widths, console.width)):
        if i:
            console.print()
        console.print(_grid(one, part, broken, stacked=_total(widths[i] for i in part) > console.width))
    _say([section for section in one.sections if not section.above], console)


def _widths(one: "Sheet", head: Callable[[str], str]) -> dict[int, int]:
    """The width of each column, with its head as `head` breaks it."""
    return {
        i: max(_width(text) for text in (*head(column.name).splitlines(), *(str(row[i]) for row in one.rows)))
        for i, column in enumerate(one.columns)
    }


def _unbroken(text: str) -> str:
    return text


def _head(text: str) -> str:
    """A column's head in lines."""
    return "\n".join(textwrap.fill(line, _HEAD, break_long_words=False) for line in _stacked(text).splitlines())


def _stacked(text: str) -> str:
    """A text broken before brackets."""
    return re.sub(r" (?=[(\[])", "\n", text.replace("; ", "\n"))


def _say(sections: "Iterable[Section]", console: "Console") -> None:
    from rich.text import Text

    for section in sections:
        if section.head and section.texts:
            console.print(Text(section.head) if section.above else Text(f"\n{section.head}", style="dim"))
        for remark in section.remarks or ():
            console.print(Text(str(remark), style="red" if remark.bad else "dim"))


def _grid(one: "Sheet", places: "Sequence[int]", broken: bool, stacked: bool) -> "Grid":
    """The columns at these places; with `broken` heads, and with `stacked` cells, for narrow windows."""
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=None, pad_edge=False, header_style="dim")
    for i in places:
        column = one.columns[i]
        name = _head(column.name) if broken else column.name
        grid.add_column(Text(name), justify=column.align, overflow="fold", no_wrap=i > 0)
    for row in one.rows:
        cells = []
        for i in places:
            text = str(row[i])
            style = f"{'bold ' if row[i].best else ''}{'red' if row[i].missing else _TONES[row[i].tone]}"
            cells.append(Text(_stacked(text) if stacked and i else text, style=style.strip()))
        grid.add_row(*cells)
    return grid
