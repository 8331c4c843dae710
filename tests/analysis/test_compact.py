"""Rows for the page: what `read_rows` gives, read a part at a time, equal values once."""

import numpy as np

from harness.analysis.compact import compact_rows
from harness.results import packs, store
from tests.support.rows import make_experiment, make_row

COLUMNS = [name for name in store.SCHEMA.names if name != "samples"]


def test_rows_are_those_of_read_rows_whatever_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_AT_ONCE", 4)
    for row in make_experiment(seeds=3):
        store.write_run(tmp_path, row)
    packs.pack(tmp_path)
    store.write_run(tmp_path, make_row("cwd", 9, "failed", curve=None, losses=None))
    expected = store.records(store.read_rows(tmp_path, COLUMNS))
    found = compact_rows(tmp_path, COLUMNS)
    assert len(found) == 14 and [row["run_id"] for row in found] == [row["run_id"] for row in expected]
    for mine, theirs in zip(found, expected, strict=True):
        for name in set(COLUMNS) - {"curve", "losses", "dev_confusion", "val_confusion"}:
            assert mine[name] == theirs[name], name
        for name in ("dev_confusion", "val_confusion"):
            assert np.array_equal(mine[name], theirs[name]) or mine[name] is theirs[name] is None
        assert mine["losses"] == (theirs["losses"] or [])[-1:]
        points = [] if mine["curve"] is None else list(zip(*mine["curve"], strict=True))
        assert points == [(p["step"], p["dev_miou"]) for p in theirs["curve"] or []]
    # Read in different batches, and one object all the same.
    for name in ("spec", "device", "class_names", "versions"):
        assert len({id(row[name]) for row in found}) == len({repr(row[name]) for row in found}), name


def test_only_rows_asked_for_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_AT_ONCE", 2)
    rows = make_experiment(seeds=2)
    for row in rows:
        store.write_run(tmp_path, row)
    packs.pack(tmp_path)
    wanted = sorted(row["run_id"] for row in rows)[1:6:2]
    assert [row["run_id"] for row in compact_rows(tmp_path, ["run_id"], wanted)] == wanted
    assert compact_rows(tmp_path, ["run_id"], []) == compact_rows(tmp_path / "none", ["run_id"]) == []
