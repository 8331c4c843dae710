"""The columns of a comparison: the cells of a line, and the numbers behind them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.analysis.lines import Comparison, MethodRow
from harness.analysis.sheets import Cell, Column
from harness.analysis.stats import Score


@dataclass(frozen=True)
class Measure:
    """A column of a comparison: its cells, the numbers behind them by name, and a hint for formats with room for it."""

    column: Column
    cell: Callable[[MethodRow], Cell]
    numbers: Callable[[MethodRow], dict[str, Any]]
    hint: Callable[[MethodRow], str] = lambda line: ""


def _score(line: MethodRow) -> Cell:
    return Cell("" if line.miou is None else line.miou.text, line.absences)


_NUMBERS = ("mean", "low", "high", "n", "p", "significant", "p_paired", "p_holm", "bootstrap_low", "bootstrap_high")


def numbers_of_difference(what: str, c: Comparison | None) -> dict[str, Any]:
    """A comparison by the names of the CSV file's columns."""
    values: tuple[Any, ...] = (None,) * len(_NUMBERS)
    if c is not None:
        d, b = c.difference, c.bootstrap
        values = (d.mean, d.low, d.high, d.n, d.p_value, c.significant, c.p_paired, c.p_holm, b.low, b.high)
    return {f"{what}_{name}": value for name, value in zip(_NUMBERS, values, strict=True)}


def cell_of_difference(c: Comparison | None, miou: Score | None, reference: bool) -> Cell:
    """A difference to a reference.

    Args:
        c: the comparison; None where there is none.
        miou: what the line itself scored.
        reference: whether the line is the reference.
    """
    if c is None:
        return Cell("–" if reference or miou is None else "no pair")
    d = c.difference
    # The line's own n holds for its differences too, unless the reference lacks a seed.
    fewer = miou is not None and 1 < d.n < miou.n
    text = c.text + (f" (n={d.n})" if fewer else "")
    return Cell(text, tone=("better" if d.mean > 0 else "worse") if c.significant else "")


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0005 else "< 0.001"


def control_numbers(line: MethodRow) -> dict[str, Any]:
    """The line's own control, and the comparison with it."""
    return {"control": line.control or None} | numbers_of_difference("vs_control", line.vs_control)


def _against(reference: str, of: Callable[[MethodRow], Comparison | None]) -> Measure:
    """The column of the differences to a reference."""

    def cell(line: MethodRow) -> Cell:
        return cell_of_difference(of(line), line.miou, line.reference == reference)

    def numbers(line: MethodRow) -> dict[str, Any]:
        return numbers_of_difference(f"vs_{reference}", of(line))

    def hint(line: MethodRow) -> str:
        c = of(line)
        if c is None or c.p_holm is None or c.difference.p_value is None:
            return ""
        return f"p {_p(c.difference.p_value)} (paired t, Holm {_p(c.p_holm)})"

    return Measure(Column(f"vs {reference}"), cell, numbers, hint)


def _scores(line: MethodRow) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for split, x in (("val", line.miou), ("dev", line.dev_miou)):
        numbers = (None, None, 0) if x is None else (x.mean, x.deviation, x.n)
        found |= zip((f"{split}_miou_percent_{name}" for name in ("mean", "deviation", "n")), numbers, strict=True)
    return found | {"best_dev_miou_percent_mean": line.best_miou.mean if line.best_miou else None}


def _counts(line: MethodRow) -> dict[str, Any]:
    found = {"method": line.label, "expected": line.expected, "ok": len(line.run_ids), "failed": line.failed}
    return found | {"skipped": line.skipped, "not_run": line.missing}


SCORE = Measure(Column("mIoU (val)"), _score, _scores)
MEASURES = (
    Measure(Column("method", "left"), lambda x: Cell(x.label), _counts),
    SCORE,
    Measure(Column("dev"), lambda x: Cell("–" if x.dev_miou is None else f"{x.dev_miou.mean:.2f}"), lambda x: {}),
    _against("none", lambda x: x.vs_none),
    _against("kd", lambda x: x.vs_kd),
    Measure(
        Column("s/step"), lambda x: Cell("–" if x.step_s is None else f"{x.step_s:.3g}"), lambda x: {"step_s": x.step_s}
    ),
    Measure(
        Column("peak MB"),
        lambda x: Cell("–" if x.peak_mb is None else f"{x.peak_mb:.0f}"),
        lambda x: {"peak_mb": x.peak_mb},
    ),
)
HEADER = tuple(measure.column.name for measure in MEASURES)


def cells(line: MethodRow) -> tuple[str, ...]:
    """The line's texts, a column each."""
    return tuple(str(measure.cell(line)) for measure in MEASURES)
