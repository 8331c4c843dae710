"""Sample predictions of the results page: label maps, errors, and differences to the baseline."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.analysis.lines import MethodRow
from harness.analysis.tables import Block
from harness.analysis.teachers import seed_of
from harness.borders import html
from harness.report.page.colours import Row, class_colours, class_names, colourise, rgb

Sample = Mapping[str, Any]

WRONG, RIGHT, OUT = (213, 94, 0), (236, 239, 242), (150, 155, 160)
BETTER, WORSE = (0, 114, 178), (213, 94, 0)
VIEWS = ("prediction", "where it is wrong", "against the baseline")
_KEYS = (
    (),
    ((WRONG, "wrong"), (RIGHT, "right"), (OUT, "not counted")),
    (
        (BETTER, "right, baseline wrong"),
        (WORSE, "wrong, baseline right"),
        (RIGHT, "both right or both wrong"),
    ),
)


def section(number: int, block: Block, by_id: Mapping[str, Row], samples: Mapping[str, Sequence[Sample] | None]) -> str:
    """The sample images of one block, with radio buttons that select the view; needs no script.

    Args:
        number: the block's number, for unique names on the page.
        block: a block of the comparison.
        by_id: rows by run_id.
        samples: the column `samples` by run_id.

    Raises:
        ValueError: a sample or a palette does not match the row's schema.
    """
    baseline = block.references.get("none")
    shown = [("teacher", block.teacher.run_id or "")] + [(x.label, _first_run(x)) for x in block.methods]
    sources = [
        (name, by_id[run], {s["index"]: s for s in samples.get(run) or ()}) for name, run in shown if run in by_id
    ]
    sources = [source for source in sources if source[2]]
    if not sources:
        return '<p class="note">No run has kept samples.</p>'
    row = sources[0][1]
    colours, void = class_colours(row["palette"], row["num_classes"]), row["ignore_index"]
    strips = []
    for index in sorted({index for _, _, found in sources for index in found}):
        whole = {
            part: next((s[index][part] for _, _, s in sources if index in s and s[index][part] is not None), None)
            for part in ("image", "label")
        }
        pictures = []
        if whole["image"] is not None:
            pictures.append(_picture("image", index, whole["image"]))
        if whole["label"] is not None:
            pictures.append(_picture("label", index, colourise(whole["label"], colours, void)))
        base = next((s[index]["prediction"] for name, _, s in sources if name == baseline and index in s), None)
        for name, _, found in sources:
            if index in found:
                guess = found[index]["prediction"]
                views: list[bytes | None] = [colourise(guess, colours, void), None, None]
                if whole["label"] is not None:
                    views[1] = _errors(guess, whole["label"], void)
                    if base is not None and name not in (baseline, "teacher"):
                        views[2] = _against(guess, base, whole["label"], void)
                pictures.append(_picture(name, index, *views))
        strips.append(f'<div class="strip">{"".join(pictures)}</div>')
    seed = min((seed_of(key) for line in block.methods for key in line.run_ids), default=0)
    first = f" and teacher {block.teacher.seed}" if block.others else ""
    return (
        f'<div class="views">{_choice(number)}{_keys(row, colours)}{"".join(strips)}</div>'
        f'<p class="note">Students of seed {seed}{first}, or of a method\'s first finished seed.</p>'
    )


def _choice(number: int) -> str:
    inputs = [
        f'<label><input type="radio" name="view{number}" class="v{i}"{" checked" if i == 0 else ""}> {view}</label>'
        for i, view in enumerate(VIEWS)
    ]
    return f'<fieldset class="choice"><legend>Show</legend>{"".join(inputs)}</fieldset>'


def _keys(row: Row, colours: NDArray[np.uint8]) -> str:
    classes = [(tuple(colour), name) for colour, name in zip(colours, class_names(row), strict=True)]
    keys = []
    for i, entries in enumerate((classes, *_KEYS[1:])):
        items = "".join(
            f'<li><i class="dot sq" style="background:{rgb(c)}"></i>{html(text)}</li>' for c, text in entries
        )
        void = '<li><i class="dot sq void"></i>void (not counted)</li>' if i == 0 else ""
        keys.append(f'<ul class="key k{i}">{items}{void}</ul>')
    return "".join(keys)


def _ids(png: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def _errors(guess: bytes, label: bytes, void: int) -> bytes:
    prediction, truth = _ids(guess), _ids(label)
    return _png(np.select([truth == void, prediction != truth], [2, 1], 0), (RIGHT, WRONG, OUT))


def _against(guess: bytes, base: bytes, label: bytes, void: int) -> bytes:
    """Where exactly one of two predictions is right."""
    truth = _ids(label)
    right, other = (_ids(each) == truth for each in (guess, base))
    seen = truth != void
    return _png(np.select([seen & right & ~other, seen & ~right & other], [1, 2], 0), (RIGHT, BETTER, WORSE))


def _png(places: NDArray[Any], palette: Sequence[tuple[int, int, int]]) -> bytes:
    from PIL import Image

    image = Image.fromarray(places.astype(np.uint8), "P")
    image.putpalette([value for colour in palette for value in colour])
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _first_run(line: MethodRow) -> str:
    return line.run_ids[min(line.run_ids)] if line.run_ids else ""


def _picture(name: str, index: int, *views: bytes | None) -> str:
    images = []
    for i, png in enumerate(views):
        if png is not None:
            data = base64.b64encode(png).decode()
            shown = f"v v{i}" if len(views) > 1 else ""
            what = f"{name}, sample {index}" + (f", {VIEWS[i]}" if i else "")
            images.append(
                f'<img class="{shown}" src="data:image/png;base64,{data}" alt="{html(what)}" decoding="async">'
            )
        else:
            images.append(f'<span class="v v{i} blank">–</span>')
    return f"<figure>{''.join(images)}<figcaption>{html(name)}</figcaption></figure>"
