"""What a reader sees of a figure: which texts are drawn and where, what legends cover, what lines look like."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from harness.report.plots.style import HEAVY, settled

TOUCH = 0.3  # pixels by which boxes of neighbouring letters may overlap


@contextmanager
def _recorded() -> Iterator[list[Text]]:
    """Texts that are drawn meanwhile, unlike those that an axis keeps ready for ticks out of view."""
    drawn: list[Text] = []
    original = Text.draw

    def draw(self: Text, renderer: Any, *args: Any, **options: Any) -> None:
        if self.get_visible() and self.get_text().strip():
            drawn.append(self)
        original(self, renderer, *args, **options)

    with patch.object(Text, "draw", draw):
        yield drawn


@settled()
def texts(figure: Figure) -> list[tuple[Text, Bbox]]:
    """The texts that are drawn, each with its box in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # places everything
    with _recorded() as drawn:
        canvas.draw()
    unique = list(dict.fromkeys(drawn))
    return [(text, text.get_window_extent(canvas.get_renderer())) for text in unique]


def overlapping(found: list[tuple[Text, Bbox]]) -> list[tuple[str, str]]:
    """Pairs of texts that are drawn over each other."""
    boxes = np.array([box.extents for _, box in found])
    least, most = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    pairs = np.argwhere(np.triu((most - least > TOUCH).all(-1), 1))
    return [(found[i][0].get_text(), found[j][0].get_text()) for i, j in pairs]


def outside(figure: Figure, found: list[tuple[Text, Bbox]]) -> list[str]:
    """Texts that the edge of the figure cuts, or that of axes that clip them."""
    out = []
    for text, box in found:
        edges = [figure.bbox]
        if text.get_clip_on() and text.get_clip_box() is not None:
            edges.append(text.get_clip_box())
        if any(
            box.x0 < edge.x0 - 1 or box.x1 > edge.x1 + 1 or box.y0 < edge.y0 - 1 or box.y1 > edge.y1 + 1
            for edge in edges
        ):
            out.append(text.get_text())
    return out


def covering(figure: Figure) -> list[str]:
    """Legends that lie over axes, by their first entries."""
    every = [axes.get_window_extent() for axes in figure.findobj(lambda x: x in figure.axes)]
    return [
        legend.get_texts()[0].get_text()
        for legend in figure.findobj(Legend)
        if any(Bbox.intersection(legend.get_window_extent().padded(-1), axes) for axes in every)
    ]


def looks(line: Line2D) -> tuple[Any, ...]:
    """What a line looks like without colour: a broad band or not, dashes, marker."""
    marker: Any = line.get_marker()
    shape = marker if isinstance(marker, str) else np.asarray(marker.vertices).tobytes()
    dashes = line.get_linestyle() if line.get_linestyle() == "None" else str(line._unscaled_dash_pattern)
    return line.get_linewidth() > HEAVY, dashes, shape
