"""Published figures from papers and their authors' repositories, with source and certainty.

They are in `results/published/*.csv`, one line per figure, and are shown next to measured numbers, never as measured.
"""

import csv
import io
import math
from dataclasses import dataclass, fields
from pathlib import Path

from harness.files import shipped

SURE = {
    "V": "verified in a source that was opened",
    "V2": "verified in a secondary source",
    "C": "computed from such figures, or counted from published code; printed nowhere",
    "U": "unverified: no source that prints it is known",
}
CONFIRMED = ("V", "V2")
"""What somebody printed. Only these can be reproduced."""
METRICS = {
    "miou": "mIoU, %",
    "miou_gain": "gain of mIoU, points",
    "params_m": "10^6 parameters",
    "gmacs": "10^9 MACs",
}
MAX_BYTES = 10_000_000
SPLITS = ("val", "test", "")


@dataclass(frozen=True)
class Figure:
    """One published figure.

    Attributes:
        dataset, split: empty for the cost of a network; `split` also where the source does not name it.
        protocol: the recipe, as named in its file.
        teacher, student: networks by the papers' names, e.g. "PSPNet-R18".
        method: e.g. "cwd"; "none" for the student without distillation, "teacher", "cost" for a network's cost.
        variant: variant of the method, e.g. "logits".
        metric: one of `METRICS`.
        value: in the metric's unit.
        sure: one of `SURE`.
        source: where it was published; a repository as OWNER/NAME@COMMIT, an issue as OWNER/NAME#NUMBER.
        note: remarks.
    """

    dataset: str
    split: str
    protocol: str
    teacher: str
    student: str
    method: str
    variant: str
    metric: str
    value: float
    sure: str
    source: str
    note: str = ""

    @property
    def cell(self) -> tuple[str, ...]:
        """The key of the figure's cell; there is one figure per cell."""
        names = ("dataset", "split", "protocol", "teacher", "student", "method", "variant", "metric")
        return tuple(getattr(self, name) for name in names)

    @property
    def text(self) -> str:
        """Its value and how sure it is, e.g. "75.15 (V2)" or "76.49 (unverified)"."""
        return f"{self.value:g} ({'unverified' if self.sure == 'U' else self.sure})"


COLUMNS = tuple(field.name for field in fields(Figure))


def published_folder(results: Path) -> Path:
    """`published/` in the results folder, or else what comes with the package."""
    own = results / "published"
    return own if own.is_dir() else shipped("published")


def read_published(folder: Path) -> list[Figure]:
    """Every figure of the CSV files in a folder, in the files' order by name.

    Raises:
        ValueError: columns are missing, a figure is invalid, or a cell has two figures; names file and line.
        FileNotFoundError: there are no such files.
    """
    paths = sorted(folder.glob("*.csv"))
    if not paths:
        raise FileNotFoundError(f"{folder}: there are no published figures (expected {folder}/*.csv)")
    found: dict[tuple[str, ...], tuple[Figure, str]] = {}
    for path in paths:
        with io.StringIO(_text(path), newline="") as file:
            reader = csv.DictReader(file, strict=True)
            try:
                if tuple(reader.fieldnames or ()) != COLUMNS:
                    raise ValueError(
                        f"{path}:1: the columns are {','.join(COLUMNS)}; given: {','.join(reader.fieldnames or ())}"
                    )
                for line in reader:
                    figure, where = _figure(line, f"{path}:{reader.line_num}"), f"{path}:{reader.line_num}"
                    if other := found.get(figure.cell):
                        raise ValueError(
                            f"{where}: the figure of this cell is already in {other[1]}; delete one of them"
                        )
                    found[figure.cell] = figure, where
            except csv.Error as error:
                raise ValueError(f"{path}:{reader.line_num}: not CSV ({error})") from None
    return [figure for figure, _ in found.values()]


def _text(path: Path) -> str:
    """A CSV file's text."""
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size} bytes; a file of published figures has at most {MAX_BYTES}")
    content = path.read_bytes()
    if (at := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, at) + 1
        raise ValueError(f"{path}:{line}: a NUL byte, which no text has. Save the file as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}:{line}: not UTF-8 (byte {content[error.start]:#04x}). Save the file as UTF-8"
        ) from None


def _figure(line: dict[str, str | None], where: str) -> Figure:
    if None in line or None in line.values():
        raise ValueError(f"{where}: {len(COLUMNS)} fields are needed; put fields that hold commas between quotes")
    known = {key: str(value) for key, value in line.items()}
    for column, allowed in (("split", SPLITS), ("metric", METRICS), ("sure", SURE)):
        if known[column] not in allowed:
            raise ValueError(f"{where}: {column}: {known[column]!r}; allowed are {', '.join(map(repr, allowed))}")
    for column in ("protocol", "method", "source"):
        if not known[column].strip():
            raise ValueError(f"{where}: {column}: is empty; a figure without it cannot be placed or looked up")
    try:
        value = float(known["value"])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: value: {known['value']!r} is not a number")
    if known["metric"] == "miou" and not 1 <= value <= 100:
        raise ValueError(f"{where}: value: {value:g}; mIoU is in percent, e.g. 75.15")
    return Figure(**{**known, "value": value})  # type: ignore[arg-type]
