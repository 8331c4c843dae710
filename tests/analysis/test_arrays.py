"""Rows split into settings and what each run has of its own, against a loop over the rows."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest

from harness.analysis.arrays import Shared, split
from harness.analysis.labels import Label, ordered, references


def table(encoded, count=4000):
    rng = np.random.default_rng(0)
    columns = {
        "run_id": [f"{v:08x}" for v in rng.permutation(count)],
        "method": rng.choice(["a", "b", "c"], count).tolist(),
        "pair": [None if v == 3 else f"p{v}" for v in rng.integers(0, 5, count)],
        "lr": rng.choice([0.1, 0.01], count).tolist(),
        "steps": rng.integers(0, 3, count).tolist(),
        "note": ["same"] * count,
        "nothing": pa.nulls(count, pa.string()),
        "seed": rng.integers(0, 50, count).tolist(),
        "score": [None if v > 0.9 else v for v in rng.random(count).tolist()],
    }
    rows = pa.table(columns)
    if encoded:
        parts = [rows.slice(0, 1000), rows.slice(1000)]  # each with dictionaries of its own
        names = ("method", "pair", "note")
        for i, part in enumerate(parts):
            for name in names:
                at = part.schema.get_field_index(name)
                parts[i] = parts[i].set_column(at, name, part[name].dictionary_encode())
        rows = pa.concat_tables(parts)
    return rows


@dataclass(frozen=True)
class Setting(Shared):
    method: str
    pair: str | None
    lr: float
    steps: int
    note: str
    nothing: str | None


def values(setting):
    return tuple(getattr(setting, name) for name in Setting.columns())


@pytest.mark.parametrize("encoded", [False, True])
def test_every_row_has_its_setting_and_its_own_values(encoded):
    rows = table(encoded)
    records = sorted(rows.to_pylist(), key=lambda r: r["run_id"])
    runs = split(rows, Setting, ("seed", "score"))
    by_setting = {}
    for record in records:
        by_setting.setdefault(tuple(record[name] for name in Setting.columns()), []).append(record)
    assert [values(s) for s in runs.settings] == list(by_setting)  # by their first run_id
    for setting, mine in zip(runs.settings, by_setting.values(), strict=True):
        places = runs.places([setting])
        expected = sorted(mine, key=lambda r: (r["seed"], r["run_id"]))
        assert setting.run_id == mine[0]["run_id"]
        assert runs.own["run_id"][places].tolist() == [r["run_id"] for r in expected]
        scores = [np.nan if r["score"] is None else r["score"] for r in expected]
        np.testing.assert_array_equal(runs.own["score"][places], scores)


def test_rows_of_several_settings_come_by_seed_too():
    runs = split(table(True), Setting, ("seed", "score"))
    some = [s for s in runs.settings if s.method == "b"]
    places = runs.places(some)
    keys = list(zip(runs.own["seed"][places].tolist(), runs.own["run_id"][places].tolist(), strict=True))
    assert keys == sorted(keys) and len(keys) == sum(m == "b" for m in table(False)["method"].to_pylist())
    assert runs.places([]).size == 0


def test_no_rows_no_settings():
    runs = split(table(False).slice(0, 0), Setting, ("seed", "score"))
    assert runs.settings == () and runs.places([]).size == 0


@pytest.mark.parametrize("text", ["none", "cwd(tau=4.0)", "mgd(levels=[2,3], weight=2e-05)", "none at equal seconds"])
def test_a_label_is_read_as_it_is_written(text):
    label = Label.read(text)
    assert str(label) == text
    assert label.method == text.split("(")[0].split(" ")[0]


def test_a_control_is_no_reference_and_comes_after_the_references():
    kd, control = Label("kd", ("weight=2",)), Label("none", control="equal seconds")
    assert references([control, kd, Label("none"), Label("kd")]) == {"kd": kd, "none": Label("none")}
    assert ordered([Label("cwd"), control, kd, Label("none")], []) == [Label("none"), kd, control, Label("cwd")]
