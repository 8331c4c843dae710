"""The figures of the results page: drawn once wide and once narrow, in the page's font and colours."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.analysis.lines import FEWEST_SEEDS
from harness.analysis.tables import Block
from harness.borders import html as _e
from harness.report.page.colours import Row
from harness.report.plots.curves import THIN, Panel, curve_figure
from harness.report.plots.forest import PAPER, Forest, forest, forest_figure
from harness.report.plots.style import FAINT, INK, MUTED, figure_svg, marker_path, style

if TYPE_CHECKING:
    from harness.search.outcome import Outcome

# Colours of the figure that are replaced by the page's theme, for dark mode.
_THEMED = {INK: "currentColor", MUTED: "var(--muted)", FAINT: "var(--line)", PAPER: "var(--paper)"}
_THEMED |= {"#0072b2": "var(--blue)"}


def swatch(place: int) -> str:
    """Colour and marker of the method in a line of the main table, as the figures have them."""
    colour = style(place)[0]
    return (
        f'<svg class="dot" viewBox="-.6 -.6 1.2 1.2" aria-hidden="true"><path d="{marker_path(place)}" '
        f'fill="{_THEMED.get(colour, colour)}"/></svg>'
    )


def differences(i: int, block: Block) -> str:
    """The forest plot, in the table's order and by gain; nothing where no line has a difference."""
    orders = [("in the table's order", forest(block)), ("by gain", forest(block, gain=True))]
    if not any(one for _, one in orders):
        return ""
    inputs = "".join(
        f'<label><input type="radio" name="order{i}" class="v{k}"{" checked" if k == 0 else ""}> {order}</label>'
        for k, (order, _) in enumerate(orders)
    )
    drawn = "".join(_forest(f"f{i}{k}", k, order, one) for k, (order, one) in enumerate(orders) if one)
    return (
        f'<h3>Differences</h3>\n<div class="views"><fieldset class="choice"><legend>Sorted</legend>{inputs}</fieldset>'
        f'<figure class="curves">{drawn}<figcaption>Differences of val mIoU, paired by seed, with 95 % intervals that '
        "hold together for all comparisons of the pair; an end beyond the axes is an arrow. A filled marker: "
        f"significant, that is, the interval leaves 0 out, over {FEWEST_SEEDS} seeds or more. Also "
        "<code>forest.png</code> and <code>forest.svg</code>.</figcaption></figure></div>\n"
    )


def _forest(name: str, k: int, order: str, found: Forest) -> str:
    one = [replace(found, title="")]
    label = f"differences of val mIoU to the references with their intervals, by method, {order}"
    wide = inline(figure_svg(forest_figure(one, 9.6), text=True), f"{name}w-", label)
    narrow = inline(figure_svg(forest_figure(one, 3.7, stacked=True), text=True), f"{name}n-", label)
    return f'<div class="v v{k}"><div class="wide">{wide}</div><div class="narrow">{narrow}</div></div>'


def curves(i: int, panel: Panel) -> str:
    """Dev mIoU over training steps; of runs with one evaluation, dots."""
    one = replace(panel, title="")
    if not any(one.curves):
        return '<p class="note">No run has a curve yet.</p>'
    label = "dev mIoU over training steps, by method"
    wide = inline(figure_svg(curve_figure([one], 9.6, 4.3, beside=True), text=True), f"w{i}-", label)
    # Scaled down to a phone, the wide figure would have letters of three pixels.
    narrow = inline(figure_svg(curve_figure([one], 3.7, 4.4), text=True), f"n{i}-", label)
    what = "Dev mIoU during training: mean over seeds (marked) and single seeds (thin, {THIN} at most)."
    if one.single:
        what = "Dev mIoU of the only evaluation: mean over seeds (marked) and single seeds (small, {THIN} at most)."
    return (
        f'<figure class="curves"><div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
        f"<figcaption>{what.format(THIN=THIN)}</figcaption></figure>"
    )


def search(i: int, outcomes: Sequence["Outcome"]) -> str:
    """The best score of the search so far; nothing without a search."""
    if not outcomes:
        return ""
    from harness.report.plots.search import best_so_far_figure

    label = "best dev mIoU by points tried"
    wide, narrow = (
        inline(figure_svg(best_so_far_figure(outcomes, *size), text=True), f"{name}{i}-", label)
        for name, size in (("sw", (8.6, 3.6)), ("sn", (3.7, 3.6)))
    )
    return (
        "<h3>Search</h3>"
        f'<figure class="curves"><div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
        "<figcaption>Best dev mIoU of the first 1, 2, 4, … points of each method's search: where a line still rises, "
        "more trials may help. It is the score that selects, so it may rise by luck. Numbers: "
        "<code>best_so_far.csv</code>.</figcaption></figure>"
    )


def gradients(i: int, block: Block, by_id: Mapping[str, Row]) -> str:
    """How strongly each loss term pulls on the student; nothing where that was not logged."""
    from harness.report.plots.gradients import gradient_figure, ratios

    found = ratios(block, {run_id: row["gradients"] for run_id, row in by_id.items()})
    if not found:
        return ""
    label = "gradient of each loss term relative to the task loss's, over training steps"
    svg = inline(figure_svg(gradient_figure([found], 8.6), text=True), f"g{i}-", label)
    return (
        f'<h3>Gradients</h3><figure class="curves"><div class="scroll">{svg}</div>'
        "<figcaption>Norm of the gradient of each weighted loss term with respect to the student, relative to the task "
        "loss's (dotted): geometric mean over runs.</figcaption></figure>"
    )


def sensitivity(i: int, block: Block, by_id: Mapping[str, Row]) -> str:
    """mIoU over the hyper-parameters in which lines of a method differ; nothing where none do."""
    from harness.report.plots.sensitivity import of_block, sensitivity_figure

    found = of_block(block, by_id)
    if not found:
        return ""
    label = "val mIoU over hyper-parameters of a method"
    svg = inline(figure_svg(sensitivity_figure([(block, found)], 8.6), text=True), f"v{i}-", label)
    return (
        f'<h3>Sensitivity</h3><figure class="curves"><div class="scroll">{svg}</div>'
        "<figcaption>Val mIoU of lines of one method that differ in one hyper-parameter, or in several by a common "
        "factor: mean, standard deviation and single seeds. No other line was trained.</figcaption></figure>"
    )


def inline(svg: str, prefix: str, label: str, links: Mapping[str, str] | None = None) -> str:
    """An SVG to embed in the page: without prologue and metadata, with unique ids and the page's colours.

    Args:
        svg: of a figure.
        prefix: of its ids.
        label: what it shows, for who does not see it.
        links: by id, what it is on the page that a point leads to.
    """
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = svg.replace('<style type="text/css">*{stroke-linejoin: round; stroke-linecap: butt}</style>', "")
    svg = re.sub(r'(\bid="|url\(#|(?<!<a xlink:)href="#)', rf"\g<1>{prefix}", svg)
    for colour, themed in _THEMED.items():
        svg = svg.replace(colour, themed)
    to = links or {}
    point = r'<a xlink:href="#([^"]*)" target="_blank">'
    svg = re.sub(point, lambda found: f'<a href="#{found[1]}" aria-label="{_e(to[found[1]])}">', svg)
    # Whoever hears the page would not come to the points of a picture.
    return svg.replace("<svg ", f'<svg role="{"group" if links else "img"}" aria-label="{label}" ', 1)
