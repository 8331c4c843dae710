"""What the columns of a row may hold: one table of rules, for rows before they are written and for rows that were read.

Every rule looks at whole columns at once: thousands of rows are checked in a few milliseconds.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from harness.borders import quoted

STATUSES = ("ok", "failed", "skipped")
ROLES = ("student", "teacher")
BUDGET_UNITS = ("steps", "seconds")
RUN_ID = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
MAX_CLASSES = 256  # label maps have 8 bits
MAX_DEPTH = 200  # of JSON; a spec has 6
MAX_SAMPLES, MAX_SAMPLE_PIXELS = 64, 1 << 26
_FEW_TEXTS = 16  # of JSON that are parsed before a fast parser is ready
_FAST_BYTES = 4_300  # of JSON that a fast parser checks
_FAST_BRACKETS = MAX_DEPTH  # texts with so few cannot be nested more deeply

CHOICES = {"status": STATUSES, "role": ROLES, "budget_unit": BUDGET_UNITS, "absent_policy": ("skip", "zero")}
PATTERNS = {
    "run_id": (RUN_ID, "letters and digits, then '.', '_' and '-' too, are allowed, 128 at most"),
    "teacher_run_id": (RUN_ID, "letters and digits, then '.', '_' and '-' too, are allowed, 128 at most"),
    "protocol_version": (r"[0-9]{1,6}\.[0-9]{1,6}", "MAJOR.MINOR is needed, e.g. '1.0'"),
}
OBJECTS = ("method_parameters", "teacher_network", "student_network", "dataset_parameters", "recipe", "spec")
"""Columns that hold JSON: one object each."""
CONFUSIONS = ("dev_confusion", "val_confusion", "dev_boundary_confusion", "val_boundary_confusion")
OF_AN_OK_ROW = ("num_classes", "dev_confusion", "dev_miou")
_COUNT, _SHARE, _TIME, _LARGE = (0, 2**62), (0.0, 1.0), (0.0, 1e12), (0.0, 1e18)
RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("seed", "steps", "resumed", "trial", "search_trials", "best_dev_step"), _COUNT),
    **dict.fromkeys(("student_parameters", "extra_parameters", "student_macs"), _COUNT),
    **dict.fromkeys(("workers", "threads", "together"), (1, 2**31)),
    "ignore_index": (0, 255),
    "num_classes": (1, MAX_CLASSES),
    **dict.fromkeys(("dev_miou", "val_miou", "best_dev_miou", "floor_dev_miou", "floor_val_miou"), _SHARE),
    **dict.fromkeys(("step_ms", "step_ms_p90", "data_ms", "student_latency_ms", "budget_step_ms"), _TIME),
    **dict.fromkeys(("train_seconds", "eval_seconds", "wall_seconds", "search_seconds", "shared_seconds"), _TIME),
    **dict.fromkeys(("peak_memory_mb", "budget_amount"), _LARGE),
}
"""Smallest and largest number allowed, both finite."""
BYTES = {"message": 1_000_000, **dict.fromkeys(OBJECTS, 1_000_000)}
"""How long a text may be; others 10,000 bytes."""
_OF_ID = np.array([2 * chr(i).isalnum() if i < 128 else 0 for i in range(256)], np.uint8)  # 2: may be the first sign
_OF_ID[[ord(sign) for sign in "._-"]] = 1
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_FIRST_MOMENT, _LAST_MOMENT = 0, 253_402_214_400_000_000  # 1970 to 9999, in microseconds

Fault = tuple[str, int, str]
"""The column, the row's place in the table, and what is wrong with it."""


def faults(table: Any, schema: Any) -> Iterator[Fault]:
    """What is wrong with rows, as far as the columns that were read can tell.

    Args:
        table: rows, with some or all columns of the schema; `num_classes` where a confusion matrix is read.
        schema: of a row.
    """
    there = set(table.column_names)
    empty = set()  # columns without a value, which many are: nothing in them breaks a rule
    for field in schema:
        if field.name in there:
            column = table[field.name]
            if not field.nullable and column.null_count:
                yield field.name, _first(pc.is_null(column)), "missing; it is needed in every row"
                return
            try:
                column.validate(full=True)
            except pa.ArrowInvalid as error:
                yield field.name, _first_invalid(column), f"not what its type says ({error})"
                return
            if column.null_count == len(column):
                empty.add(field.name)
    for name, check in _CHECKS:
        if name in there and (name not in empty or check is _result):
            yield from check(name, table)
    if {"status", "message"} <= there:
        unequal = pc.xor(pc.equal(table["status"], "ok"), pc.equal(table["message"], ""))
        yield from _found("message", table, unequal, "an ok row has none, others must")


def _found(name: str, table: Any, bad: Any, allowed: str) -> Iterator[Fault]:
    """A fault where the mask `bad` is true for a row."""
    if pc.any(bad).as_py():
        at = _first(bad)
        yield name, at, f"{quoted(ascii(table[name][at].as_py()))}; {allowed}"


def _first(mask: Any) -> int:
    return int(pc.index(mask, pa.scalar(True)).as_py())


def _first_invalid(column: Any) -> int:
    for at in range(len(column)):
        try:
            pa.chunked_array([column.slice(at, 1).combine_chunks()]).validate(full=True)
        except pa.ArrowInvalid:
            return at
    return 0


def _distinct(column: Any) -> Any:
    """The different values of a column but null; most columns of an experiment have one or few."""
    known = column.drop_null()
    if len(known) and pc.all(pc.equal(known, known[0])).as_py():
        return pa.array([known[0].as_py()], column.type)
    return pc.unique(known)


def _choice(name: str, table: Any) -> Iterator[Fault]:
    if set(_distinct(table[name]).to_pylist()) <= set(CHOICES[name]):
        return
    bad = pc.invert(pc.is_in(table[name], value_set=pa.array(CHOICES[name])))
    yield from _found(name, table, bad, f"allowed are {', '.join(CHOICES[name])}")


def _pattern(name: str, table: Any) -> Iterator[Fault]:
    pattern, allowed = PATTERNS[name]
    if name == "run_id" and all(map(_plain_ids, table[name].chunks)):
        return
    if pc.all(pc.match_substring_regex(_distinct(table[name]), rf"\A(?:{pattern})\z")).as_py():
        return
    # RE2's $ would also match before a newline at the end.
    bad = pc.invert(pc.match_substring_regex(table[name], rf"\A(?:{pattern})\z"))
    yield from _found(name, table, bad, allowed)


def _plain_ids(ids: Any) -> bool:
    """Whether all are run_ids, quickly; those that begin with another sign are left to the pattern."""
    ids = ids.drop_null()
    if not len(ids):
        return True
    _, offsets, content = ids.buffers()
    ends = np.frombuffer(offsets, np.int32)[ids.offset : ids.offset + len(ids) + 1]
    signs = np.frombuffer(content or b"", np.uint8)[ends[0] : ends[-1]]
    lengths = np.diff(ends)
    if lengths.min() < 1 or lengths.max() > 128 or not _OF_ID[signs].all():
        return False
    return bool((_OF_ID[signs[ends[:-1] - ends[0]]] == 2).all())


def _range(name: str, table: Any) -> Iterator[Fault]:
    low, high = RANGES[name]
    column = table[name]
    # Their sum tells whether there is a NaN, which is neither the smallest nor the largest.
    span, total = pc.min_max(column), pc.sum(column)
    least, most = span["min"].as_py(), span["max"].as_py()
    if least is None or (low <= least and most <= high and total.as_py() == total.as_py()):
        return
    if pa.types.is_floating(column.type):
        yield from _found(name, table, pc.invert(pc.is_finite(column)), "a finite number is needed")
    outside = pc.or_(pc.less(column, pa.scalar(low, column.type)), pc.greater(column, pa.scalar(high, column.type)))
    yield from _found(name, table, outside, f"allowed are {low:g} to {high:g}")


def _length(name: str, table: Any) -> Iterator[Fault]:
    most = BYTES.get(name, 10_000)
    if pc.max(pc.binary_length(table[name])).as_py() <= most:
        return
    yield from _found(name, table, pc.greater(pc.binary_length(table[name]), most), f"at most {most} bytes are allowed")


def _moment(name: str, table: Any) -> Iterator[Fault]:
    since = table[name].cast(pa.int64())
    bad = pc.or_(pc.less(since, _FIRST_MOMENT), pc.greater(since, _LAST_MOMENT))
    if pc.any(bad).as_py():
        at = _first(bad)
        yield name, at, f"{since[at].as_py()} microseconds since 1970; the years 1970 to 9999 are allowed"


def _result(name: str, table: Any) -> Iterator[Fault]:
    if "status" in table.column_names:
        bad = pc.and_(pc.is_null(table[name]), pc.equal(table["status"], "ok"))
        if pc.any(bad).as_py():
            yield name, _first(bad), "missing; a row with status 'ok' has it"


def _confusion(name: str, table: Any) -> Iterator[Fault]:
    column, classes = table[name], table["num_classes"]
    lengths = pc.list_value_length(column)
    bad = pc.fill_null(pc.not_equal(lengths, pc.multiply(classes, classes).cast(pa.int32())), False)
    bad = pc.or_(bad, pc.and_(pc.is_null(classes), pc.is_valid(column)))
    if pc.any(bad).as_py():
        at = _first(bad)
        yield name, at, f"{lengths[at]} counts; num_classes**2 are needed, num_classes={classes[at].as_py()}"
        return
    yield from _inside(name, column, _flat(column), *_COUNT)


def _inside(name: str, column: Any, values: Any, low: float, high: float) -> Iterator[Fault]:
    """A fault where an element of a list is missing, not finite or out of range."""
    numbers = values.to_numpy(zero_copy_only=False)
    if not len(numbers) or (not values.null_count and low <= numbers.min() and numbers.max() <= high):
        return
    bad = ~((numbers >= low) & (numbers <= high))
    if bad.any():
        place = int(bad.argmax())
        at = int(np.searchsorted(_ends(column), place, side="right"))
        yield name, at, f"{values[place].as_py()} in the list; allowed are {low:g} to {high:g}"


def _flat(column: Any) -> Any:
    """The elements of all lists of a column."""
    return column.combine_chunks().flatten() if column.num_chunks != 1 else column.chunk(0).flatten()


def _ends(column: Any) -> NDArray[np.int64]:
    """Where the elements of each row's list end in `_flat`."""
    ends: NDArray[np.int64] = np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64))
    return ends


def _curve(name: str, table: Any) -> Iterator[Fault]:
    points = _flat(table[name])
    yield from _inside(name, table[name], points.field("step"), *_COUNT)
    yield from _inside(name, table[name], points.field("dev_miou"), *_SHARE)


def _losses(name: str, table: Any) -> Iterator[Fault]:
    logged = _flat(table[name])
    terms = logged.field("terms")
    if any(part.null_count for part in (logged, *logged.flatten(), terms.keys, terms.items)):
        yield name, 0, "a step, a learning rate or a term is missing"
        return
    yield from _inside(name, table[name], logged.field("step"), *_COUNT)


def _words(name: str, table: Any) -> Iterator[Fault]:
    words = _flat(table[name])
    if words.null_count:
        yield name, int(np.searchsorted(_ends(table[name]), _first(pc.is_null(words)), side="right")), "one is missing"


def _classes(name: str, table: Any) -> Iterator[Fault]:
    """As many names or colours as classes."""
    if "num_classes" in table.column_names:
        unequal = pc.not_equal(pc.list_value_length(table[name]), table["num_classes"].cast(pa.int32()))
        yield from _found(name, table, unequal, "one for each of the num_classes classes is needed")
    inner = _flat(table[name])
    if inner.null_count:
        at = int(np.searchsorted(_ends(table[name]), _first(pc.is_null(inner)), side="right"))
        yield name, at, "one of the list is missing"
    elif name == "palette":
        if pc.any(pc.not_equal(pc.list_value_length(inner), 3)).as_py():
            place = _first(pc.not_equal(pc.list_value_length(inner), 3))
            at = int(np.searchsorted(_ends(table[name]), place, side="right"))
            yield name, at, f"{quoted(ascii(inner[place].as_py()))}; a colour is [r, g, b]"
            return
        yield from _inside(name, pc.list_flatten(table[name]), inner.flatten(), 0, 255)


def _json(name: str, table: Any) -> Iterator[Fault]:
    """One JSON object in every row, not nested deeply."""
    texts = _distinct(table[name])
    if len(texts) > _FEW_TEXTS and _parsed(texts):
        return
    for text in texts.to_pylist():
        if why := _not_an_object(text):
            yield name, int(pc.index(table[name], pa.scalar(text)).as_py()), f"{why}: {quoted(ascii(text))}"
            return


def _parsed(texts: Any) -> bool:
    """Whether a fast parser finds one object in every text; false may also mean that it cannot tell."""
    import pyarrow.json

    if not len(texts):
        return True
    # Python refuses numbers of more digits than these texts have letters.
    if not pc.all(pc.starts_with(texts, "{")).as_py() or pc.max(pc.binary_length(texts)).as_py() > _FAST_BYTES:
        return False
    lines = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    content = pc.binary_join(lines, "\n")[0].as_buffer()
    signs = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(signs == ord("\n"))
    if len(ends) != len(texts) - 1 or (signs == ord("\r")).any():  # lines are rows there
        return False
    opened = (signs == ord("{")) | (signs == ord("["))
    if np.add.reduceat(opened, np.append(0, ends + 1), dtype=np.int64).max() > _FAST_BRACKETS:
        return False
    nothing = pa.schema([pa.field("\0", pa.null())])
    try:
        read = pyarrow.json.read_json(
            pa.BufferReader(content),
            pyarrow.json.ReadOptions(block_size=content.size + 1),
            pyarrow.json.ParseOptions(explicit_schema=nothing, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowException:
        return False
    return bool(read.num_rows == len(texts))


def _not_an_object(text: str) -> str:
    """Why a text is not one JSON object; empty if it is."""
    try:
        value = json.loads(text)
    except RecursionError:
        return "not JSON (nested too deeply)"
    except ValueError as error:
        return f"not JSON ({error})"
    if not isinstance(value, dict):
        return f"a JSON object is needed; given a {type(value).__name__}"
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return ""
    return f"not JSON (nested more than {MAX_DEPTH} deep)"


def _samples(name: str, table: Any) -> Iterator[Fault]:
    """PNGs of one size with a bounded number of pixels, judged by their headers."""
    column = table[name]
    yield from _found_length(name, column, MAX_SAMPLES)
    all_samples, ends = _flat(column), _ends(column)
    if not len(all_samples):
        return
    sizes: dict[str, NDArray[np.int64]] = {}
    for part in ("image", "label", "prediction"):
        pictures = all_samples.field(part)
        known = np.flatnonzero(pc.is_valid(pictures).to_numpy(zero_copy_only=False))
        heads = pc.binary_slice(pictures.take(pa.array(known)), 0, 26).to_pylist()
        sizes[part] = np.zeros((len(all_samples), 2), np.int64)
        for place, head in zip(known, heads, strict=True):
            width, height = (int.from_bytes(head[at : at + 4], "big") for at in (16, 20))
            why = ""
            if head[:16] != _PNG or len(head) < 26:
                why = "is not a PNG"
            elif not 0 < width * height <= MAX_SAMPLE_PIXELS:
                why = f"declares {width} x {height} pixels; 1 to {MAX_SAMPLE_PIXELS} are allowed"
            elif part != "image" and head[24:26] != b"\x08\x00":
                why = "is not an 8-bit grey PNG"
            if why:
                yield name, int(np.searchsorted(ends, place, side="right")), f"its {part} {why}"
                return
            sizes[part][place] = width, height
    for part in ("image", "label"):
        unequal = (sizes[part] != sizes["prediction"]).any(1) & sizes[part].any(1)
        if unequal.any():
            at = int(np.searchsorted(ends, int(unequal.argmax()), side="right"))
            yield name, at, f"its {part} and its prediction differ in size"
            return


def _found_length(name: str, column: Any, most: int) -> Iterator[Fault]:
    lengths = pc.list_value_length(column)
    if (longest := pc.max(lengths).as_py() or 0) > most:
        yield name, int(pc.index(lengths, pa.scalar(longest, lengths.type)).as_py()), f"{longest}; at most {most}"


Check = Callable[[str, Any], Iterator[Fault]]
_TEXTS = (
    *("run_id", "experiment", "message", "method", "method_parameters", "ruleset", "pair", "teacher_network"),
    *("student_network", "dataset", "dataset_parameters", "recipe", "device", "precision", "code_version", "spec"),
    *("teacher_sha256", "student_init_sha256", "caveat", "weights_sha256", "data_hash", "trial_method"),
    *("search_sha256", "control", "per_image_sha256"),
)
_CHECKS: tuple[tuple[str, Check], ...] = (
    *((name, _choice) for name in CHOICES),
    *((name, _pattern) for name in PATTERNS),
    *((name, _length) for name in _TEXTS),
    *((name, _result) for name in OF_AN_OK_ROW),
    *((name, _range) for name in RANGES),
    *((name, _moment) for name in ("started_at", "finished_at")),
    *((name, _json) for name in OBJECTS),
    *((name, _confusion) for name in CONFUSIONS),
    ("curve", _curve),
    ("losses", _losses),
    ("gradients", _losses),
    ("overrides", _words),
    ("taps", _words),
    ("class_names", _classes),
    ("palette", _classes),
    ("samples", _samples),
)
"""The table of rules: a column, and what is checked of it."""
