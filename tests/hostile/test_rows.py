"""Rows, packs and published CSVs that somebody else has made: every command that reads them names file and column."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from harness.results import store
from harness.results.schema import SCHEMA, checked
from tests.support import hostile
from tests.support.rows import make_row

pytestmark = pytest.mark.slow

ROW = checked(make_row("kd", 0))
NAME = ROW["run_id"]
TABLE = pa.Table.from_pylist([ROW], schema=SCHEMA)


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What the commands import, before they are forked."""
    import pyarrow.dataset
    import pyarrow.json  # noqa: F401

    import harness.papers.measured
    import harness.papers.published
    import harness.report.console
    import harness.report.write  # noqa: F401


def changed(column: str, value: Any, kind: Any = None) -> Any:
    """The row with a value that nobody has checked, of any type."""
    kind = kind or SCHEMA.field(column).type
    at = SCHEMA.get_field_index(column)
    array = value if isinstance(value, pa.Array) else pa.array([value], kind)
    return TABLE.set_column(at, pa.field(column, kind), array)


def png(size: tuple[int, int] = (96, 96), declared: tuple[int, int] | None = None, mode: str = "L") -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.zeros(size, np.uint8)).convert(mode).save(out, "PNG")
    content = out.getvalue()
    if declared is not None:
        content = content[:16] + b"".join(side.to_bytes(4, "big") for side in declared) + content[24:]
    return content


def sample(**parts: Any) -> dict[str, Any]:
    return {"index": 0, "image": None, "label": None, "prediction": png(), **parts}


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


TEXT, BLOB, WHOLE = pa.string(), pa.binary(), pa.int64()
REAL = ("step_ms", "step_ms_p90", "data_ms", "wall_seconds", "peak_memory_mb", "budget_amount", "student_latency_ms")
VALUES: list[tuple[str, Any]] = [
    *(("status", value) for value in ("great", "", "OK", "ok\n", None)),
    *((name, "other") for name in ("role", "budget_unit", "absent_policy")),
    *(("run_id", value) for value in ("../../x", "..", "", ".hidden", "a/b", "x" * 300, f"{NAME}\n", "\x1b[2J", None)),
    *(("teacher_run_id", value) for value in ("../x", "/etc/passwd", "a\x1b[2J")),
    *(("protocol_version", value) for value in ("1", "one", "1.0.0")),
    *(("num_classes", value) for value in (None, 0, -1, 5, 10**9)),
    *(("dev_miou", value) for value in (float("nan"), float("inf"), -0.1, 1.5, None)),
    *((name, value) for name in REAL for value in (float("nan"), float("-inf"), -1.0)),
    *((name, -1) for name in ("seed", "steps", "resumed", "workers", "threads", "ignore_index", "student_macs")),
    *(
        (name, text)
        for name in ("spec", "recipe")
        for text in ("", "[]", "1", "{", "null", "{}{}", "{}\n{}", deep(300))
    ),
    *((name, text) for name in ("spec", "method_parameters") for text in (deep(20_000), '{"a":' + "9" * 5000 + "}")),
    *((name, "[1, 2]") for name in ("student_network", "teacher_network", "dataset_parameters")),
    ("message", "no reason"),
    ("message", None),
    ("pair", "x" * 20_000),
    *((name, list(range(n))) for name in ("dev_confusion", "val_confusion") for n in (0, 35, 37)),
    ("dev_confusion", [-1] * 36),
    ("dev_confusion", None),
    ("class_names", ["a"]),
    ("class_names", ["a", None, "c", "d", "e", "f"]),
    ("palette", [[0, 0, 0]]),
    ("palette", [[0, 0]] * 6),
    ("palette", [[0, 0, 300]] * 6),
    ("curve", [{"step": 1, "dev_miou": float("nan")}]),
    ("curve", [{"step": -1, "dev_miou": 0.5}]),
    ("losses", [{"step": -5, "lr": 0.1, "terms": []}]),
    ("overrides", [None]),
    ("finished_at", pa.array([2**62], WHOLE).cast(SCHEMA.field("finished_at").type)),
    ("samples", [sample(prediction=png(declared=(60_000, 60_000)))]),
    ("samples", [sample(prediction=b"<html>")]),
    ("samples", [sample(prediction=b"")]),
    ("samples", [sample(prediction=png(mode="RGB"))]),
    ("samples", [sample(label=png((8, 8)))]),
    ("samples", [sample()] * 100),
]
TYPES: list[tuple[str, Any, Any]] = [
    ("spec", ["{}"], pa.list_(TEXT)),
    ("seed", "one", TEXT),
    ("dev_miou", "high", TEXT),
    ("seed", 0.5, pa.float64()),
    ("status", b"\xff\xfe", BLOB),
    ("method", b"\xff\xfe", BLOB),
    ("dev_confusion", "1 2 3", TEXT),
    ("class_names", "abc", TEXT),
    ("versions", "abc", TEXT),
]


def content(table: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def spoiled() -> Iterator[tuple[str, bytes]]:
    """Files that are not one row."""
    good = content(TABLE)
    yield from (("empty", b""), ("html", b"<!DOCTYPE html>" * 100), ("marks", b"PAR1PAR1"), ("marked", b"PAR1" * 50))
    for keep in (1, 100, len(good) // 2, len(good) - 1):
        yield f"cut at {keep}", good[:keep]
    size = int.from_bytes(good[-8:-4], "little")
    yield "zeros for a footer", good[: -8 - size] + bytes(size) + good[-8:]
    yield "a footer of another size", good[:-8] + (2**31 - 1).to_bytes(4, "little") + good[-4:]
    yield "foreign", content(pa.table({"x": [1, 2, 3]}))
    yield "no rows", content(SCHEMA.empty_table())
    yield "two rows", content(pa.concat_tables([TABLE, TABLE]))
    yield "many rows", content(pa.concat_tables([TABLE] * 500))


SPOILED = dict(spoiled())
READERS: dict[str, Callable[[Path], list[str]]] = {
    "list": lambda f: ["results", "list", str(f)],
    "show": lambda f: ["results", "show", str(f), NAME[:3]],
    "tables": lambda f: ["tables", str(f)],
    "pack": lambda f: ["results", "pack", str(f)],
}


def complaints(folder: Path, arguments: list[str], *words: str) -> list[str]:
    return hostile.complaints(hostile.run(arguments, folder), words)


def folder_with(tmp_path: Path, table: Any, packed: bool = False) -> tuple[Path, Path]:
    """A results folder with one file, and that file."""
    folder = tmp_path / "work" / "results"
    file = folder / ("packs/a.parquet" if packed else f"runs/{NAME}.parquet")
    file.parent.mkdir(parents=True)
    file.write_bytes(table if isinstance(table, bytes) else content(table))
    return folder, file


@pytest.mark.parametrize("case", range(len(VALUES)), ids=lambda i: ascii(VALUES[i])[:40])
def test_a_value_that_breaks_a_rule(tmp_path, case):
    (column, value), packed = VALUES[case], case % 3 == 0
    folder, file = folder_with(tmp_path, changed(column, value), packed)
    # A packed row is found by its run_id; a wrong one is found where all are read.
    command = "pack" if packed and column == "run_id" else "show"
    assert complaints(folder.parent, READERS[command](folder), str(file), column) == []


@pytest.mark.parametrize(("column", "value", "kind"), TYPES, ids=lambda x: ascii(x)[:30])
def test_a_value_of_another_type(tmp_path, column, value, kind):
    folder, file = folder_with(tmp_path, changed(column, value, kind))
    assert complaints(folder.parent, READERS["show"](folder), str(file)) == []


@pytest.mark.parametrize("name", SPOILED)
def test_a_file_that_is_not_one_row(tmp_path, name):
    folder, file = folder_with(tmp_path, SPOILED[name])
    command = ("list", "tables", "pack")[list(SPOILED).index(name) % 3]
    assert complaints(folder.parent, READERS[command](folder), str(file)) == []
    assert file.exists()


@pytest.mark.parametrize("name", [name for name in SPOILED if name != "no rows"])
def test_a_file_that_is_no_pack(tmp_path, name):
    folder, file = folder_with(tmp_path, SPOILED[name], packed=True)
    command = ("list", "unpack")[list(SPOILED).index(name) % 2]
    assert complaints(folder.parent, ["results", command, str(folder)], str(file)) == []
    assert file.exists() and not list(folder.glob("runs/*"))


@pytest.mark.parametrize("name", [*SPOILED, "another name", "great", "outside"])
def test_pull_takes_checked_rows_only(tmp_path, name):
    made = {"great": changed("status", "great"), "outside": changed("run_id", "../../outside"), **SPOILED}
    folder, file = folder_with(tmp_path, made.get(name, TABLE))
    if name == "another name":
        file = file.rename(file.with_name("copy.parquet"))
    there = folder.rename(folder.with_name("there"))
    words = (f"there/runs/{file.name}",)
    assert complaints(folder.parent, ["results", "pull", str(there), "here"], *words) == []
    assert not list((folder.parent / "here").rglob("*.parquet"))


def test_unpack_writes_nowhere_else(tmp_path):
    folder, file = folder_with(tmp_path, changed("run_id", "../../../written-outside"), packed=True)
    assert complaints(folder.parent, ["results", "unpack", str(folder)], str(file), "run_id") == []
    assert file.exists() and not list(tmp_path.rglob("*written-outside*"))


def test_pack_removes_no_other_experiments_row(tmp_path):
    folder, file = folder_with(tmp_path, changed("run_id", f"../../other/runs/{NAME}"))
    other = folder.parent / "other"
    store.write_run(other, make_row("kd", 0))
    assert complaints(folder.parent, ["results", "pack", str(folder)], str(file), "run_id") == []
    assert list(store.finished(other)) == [NAME]


def test_a_copy_under_another_name(tmp_path):
    folder, file = folder_with(tmp_path, TABLE)
    copy = file.with_name("copy.parquet")
    shutil.copy(file, copy)
    for command in ("list", "tables", "pack"):
        assert complaints(folder.parent, READERS[command](folder), str(copy), "run_id", NAME) == []


@pytest.mark.parametrize("kind", ["folder", "link to nothing", "link to itself"])
def test_what_is_no_file(tmp_path, kind):
    folder, file = folder_with(tmp_path, TABLE)
    other = file.with_name("zz.parquet")
    if kind == "folder":
        other.mkdir()
    else:
        other.symlink_to(other if "itself" in kind else tmp_path / "nothing")
    assert complaints(folder.parent, READERS["list"](folder), str(other)) == []


def test_one_run_in_two_packs(tmp_path):
    folder, file = folder_with(tmp_path, TABLE, packed=True)
    shutil.copy(file, file.with_name("b.parquet"))
    assert complaints(folder.parent, READERS["list"](folder), str(file.parent), NAME) == []


@pytest.mark.parametrize("spec", ["{}", '{"data": 1}', '{"run_id": "x"}'])
def test_a_spec_that_describes_no_run(tmp_path, spec):
    folder, file = folder_with(tmp_path, changed("spec", spec))
    arguments = ["predict", str(folder), NAME, "--to", "out"]
    assert complaints(folder.parent, arguments, str(file), "spec") == []


HEAD = "dataset,split,protocol,teacher,student,method,variant,metric,value,sure,source,note"
LINE = "cityscapes,val,p,T,S,kd,,miou,75.15,V,where,"
CSVS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", ":1"),
    "not UTF-8": (f"{HEAD}\n{LINE}\n".encode() + b"caf\xe9\n", ":3"),
    "UTF-16": (f"{HEAD}\n{LINE}\n".encode("utf-16"), ":1"),
    "nul": (f"{HEAD}\n{LINE}\0\n".encode(), "f.csv"),
    "other columns": (b"a,b\n1,2\n", ":1"),
    "too few": (f"{HEAD}\ncityscapes\n".encode(), ":2"),
    "too many": (f"{HEAD}\n{LINE},x,y\n".encode(), ":2"),
    "open quote": (f'{HEAD}\n"cityscapes\n'.encode(), "f.csv"),
    "a field too long": (f"{HEAD}\n{'x' * 200_000}\n".encode(), "f.csv"),
    "twice": (f"{HEAD}\n{LINE}\n{LINE}\n".encode(), ":3"),
    **{
        f"value {value}": (f"{HEAD}\n{LINE.replace('75.15', value)}\n".encode(), "value")
        for value in ("nan", "inf", "", "75%", "0.75", "1e9", "=1+1", "\x1b[31m75")
    },
    **{
        f"{column} {value}": (f"{HEAD}\n{LINE.replace(old, value)}\n".encode(), column)
        for column, old, value in (
            ("split", ",val,", ",train,"),
            ("sure", ",V,", ",sure,"),
            ("metric", ",miou,", ",acc,"),
            ("source", ",where,", ", ,"),
        )
    },
}


@pytest.mark.parametrize("name", CSVS)
def test_a_published_csv(tmp_path, name):
    folder, _ = folder_with(tmp_path, TABLE)
    csv = folder.parent / "published" / "f.csv"
    csv.parent.mkdir()
    made, where = CSVS[name]
    csv.write_bytes(made)
    arguments = ["tables", str(folder), "--paper", "cwd", "--published", "published"]
    assert complaints(folder.parent, arguments, "published/f.csv", where) == []


def test_a_good_row_is_read(tmp_path):
    """What the cases above change is what they are refused for."""
    folder, _ = folder_with(tmp_path, TABLE)
    ended = hostile.run(READERS["show"](folder), folder.parent)
    assert hostile.complaints(ended, [NAME], codes=(0,)) == []
    assert json.loads(ended.text)["run_id"] == NAME
