"""Tables of several teachers: what is paired with what, over what intervals are, and what is said of it."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from harness.analysis import power
from harness.analysis.comparison import COLUMNS, quick_table
from harness.analysis.crossing import crossed
from harness.analysis.tables import Block
from harness.analysis.teachers import paired
from harness.report.formats import to_csv, to_html, to_json, to_latex, to_markdown
from harness.results.schema import SCHEMA
from tests.support.rows import make_row

Rows = list[dict[str, Any]]
SEEDS = 5


def drawn(teachers: int = 3, gain: float = 0.03, tau: float = 0.005, seeds: int = SEEDS) -> Rows:
    """Rows of `none`, `kd` and `cwd` under teachers of seeds 0, 3, 6, ...; cwd is `gain` above kd."""
    rng = np.random.default_rng(1)
    effect = tau * rng.normal(size=teachers)
    rows = []
    for t in range(teachers):
        rows.append(make_row(role="teacher", seed=3 * t, run_id=f"teacher-{3 * t}", val_miou=0.7 + 0.01 * t))
        for s in range(seeds):
            common = 0.5 + 0.01 * s
            for method, more in (("none", 0.0), ("kd", 0.02), ("cwd", 0.02 + gain)):
                if method == "none" and t:
                    continue
                value = common + more + (0 if method == "none" else effect[t]) + 0.002 * rng.normal()
                own = {
                    "teacher_sha256": None if method == "none" else f"{t:064x}",
                    "teacher_run_id": f"teacher-{3 * t}",
                }
                rows.append(make_row(method, s, run_id=f"{method}-{t}-{s}", dev_miou=value, **own))
        rows[-1 - (3 * seeds if not t else 2 * seeds)] |= {"weights_sha256": f"{t:064x}"}
    return rows


def block(rows: Rows, seeds: tuple[int, ...] | None = tuple(range(SEEDS))) -> Block:
    return table(rows, seeds).blocks[0]


def table(rows: Rows, seeds: tuple[int, ...] | None = tuple(range(SEEDS))) -> Any:
    schema = pa.schema([SCHEMA.field(c) for c in COLUMNS])
    return quick_table(pa.Table.from_pylist([{c: r.get(c) for c in COLUMNS} for r in rows], schema), (), seeds)


def values(rows: Rows, method: str) -> np.ndarray:
    """(teachers, seeds) in percent."""
    found = {
        (r["teacher_run_id"], r["seed"]): 100 * r["val_miou"]
        for r in rows
        if r["role"] == "student" and r["method"] == method
    }
    ids = sorted({t for t, _ in found})
    return np.array([[found[t, s] for s in range(SEEDS)] for t in ids])


def test_methods_are_crossed_and_none_is_shared() -> None:
    rows = drawn()
    found = block(rows)
    none, kd, cwd = (found.line(name) for name in ("none", "kd", "cwd"))
    assert none is not None and kd is not None and cwd is not None
    assert (none.expected, kd.expected, cwd.missing) == (5, 15, 0)
    assert none.miou is not None and none.miou.text.endswith("(n=5)")
    assert kd.miou is not None and kd.miou.text.endswith("(n=3x5)")
    assert sorted(kd.run_ids)[:2] == [(0, 0), (0, 1)] and sorted(none.run_ids) == [0, 1, 2, 3, 4]
    for line, reference, c in ((kd, "none", kd.vs_none), (cwd, "none", cwd.vs_none), (cwd, "kd", cwd.vs_kd)):
        expected = crossed(values(rows, line.label) - values(rows, reference))
        assert c is not None and c.difference.mean == pytest.approx(expected.mean) and c.teachers == 3
        low, high = c.difference.low, c.difference.high
        assert low is not None and high is not None and high - low > 2 * expected.error
    assert cwd.vs_kd is not None and cwd.vs_kd.significant


def test_what_is_said_of_teachers_is_in_every_format() -> None:
    several, one = table(drawn()), table(drawn(1))
    for render in (to_markdown, to_html, to_json, to_latex):
        assert "3 teachers (seeds 0, 3, 6)" in render(several)
        assert "for this teacher" in render(one) and "for this teacher" not in render(several)
    assert "Teachers: 71.00 ± 1.00 (n=3)" in several.blocks[0].headline
    lines = to_csv(several).splitlines()
    assert "teachers" in lines[0].split(",")
    assert json.loads(to_json(several))
    assert "crossed over 3 teachers and 5 seeds" in several.blocks[0].compared


def test_two_teachers_mark_nothing() -> None:
    found = block(drawn(2, gain=0.2))
    cwd = found.line("cwd")
    assert cwd is not None and cwd.vs_kd is not None and not cwd.vs_kd.significant
    assert any("2 teachers: 3 or more are needed" in x.text and x.unfair for x in found.findings)
    assert "Fewer than 3 mark nothing" in found.for_whom


def test_few_seeds_mark_nothing_whatever_the_teachers() -> None:
    found = block(drawn(3, gain=0.2, seeds=3), (0, 1, 2))
    cwd = found.line("cwd")
    assert cwd is not None and cwd.vs_kd is not None and cwd.vs_kd.difference.n == 9
    assert cwd.vs_kd.difference.low is not None and not cwd.vs_kd.significant


def test_teachers_that_differ_widen_the_interval() -> None:
    def half(tau: float) -> float:
        line = block(drawn(tau=tau)).line("kd")
        assert line is not None and line.vs_none is not None and line.vs_none.difference.half is not None
        return line.vs_none.difference.half

    assert half(0.05) > 3 * half(0.0)


def test_missing_and_failed_runs_are_counted_by_teacher_and_seed() -> None:
    rows = [r for r in drawn() if r["run_id"] not in ("kd-1-2", "cwd-2-4")]
    rows.append(make_row("cwd", 4, "failed", run_id="cwd-2-4", teacher_run_id="teacher-6", teacher_sha256=None))
    found = block(rows)
    kd, cwd = found.line("kd"), found.line("cwd")
    assert kd is not None and cwd is not None and kd.miou is not None
    assert (kd.missing, kd.absences) == (1, "not run (1 of 15)") and (cwd.failed, cwd.absences) == (
        1,
        "failed (1 of 15)",
    )
    assert kd.miou.text.endswith("(n=14 of 3x5)")
    assert kd.vs_none is not None and kd.vs_none.difference.n == 12  # the seed that one teacher lacks is left out
    assert cwd.vs_none is not None and cwd.vs_none.lost == 1 and not cwd.vs_none.significant
    assert any("cwd, teacher 6, seed 4: failed" in note for note in found.notes)
    assert any("1 of 15 runs failed" in x.text for x in found.findings)


def test_two_results_of_one_cell_are_refused() -> None:
    rows = drawn()
    twice = next(r for r in rows if r["run_id"] == "kd-1-2")
    with pytest.raises(ValueError, match="kd, teacher 3, seed 2: two results for one cell"):
        block([*rows, twice | {"run_id": "again"}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": json.dumps({"steps": 900})}, "its teachers: rows with different recipe"),
        (
            {"student_network": json.dumps({"architecture": "unet"})},
            "its teachers: rows with different student_network",
        ),
    ],
)
def test_teachers_that_differ_in_more_than_the_seed_are_refused(change: dict[str, Any], message: str) -> None:
    rows = [r | change if r["run_id"] == "teacher-3" else r for r in drawn()]
    with pytest.raises(ValueError, match=message):
        block(rows)


def test_students_of_one_teacher_have_its_weights() -> None:
    rows = [r | {"teacher_sha256": "f" * 64} if r["run_id"] == "kd-1-2" else r for r in drawn()]
    with pytest.raises(ValueError, match="different teacher_sha256"):
        block(rows)


def test_runs_are_paired_by_teacher_and_seed() -> None:
    none, kd, cwd = {0: "n0", 1: "n1"}, {(0, 0): "k00", (3, 0): "k30", (3, 1): "k31"}, {(3, 0): "c30", (3, 1): "c31"}
    assert paired(kd, none) == [("k00", "n0"), ("k30", "n0"), ("k31", "n1")]
    assert paired(none, kd) == [("n0", "k00"), ("n0", "k30"), ("n1", "k31")]
    assert paired(cwd, kd) == [("c30", "k30"), ("c31", "k31")] and paired(none, none) == [("n0", "n0"), ("n1", "n1")]


def test_power_is_that_of_these_teachers() -> None:
    found = {x.label: x for x in power.by_method(block(drawn(tau=0.02)), [5, 50])}
    assert set(found) == {"kd", "cwd"} and found["kd"].n == 15
    smallest = found["kd"].smallest
    assert smallest[50] < smallest[5] < 5 * smallest[50]  # teachers, not seeds, are what is short
    assert "3 teachers and 5 seeds detect" in (power.phrase(block(drawn())) or "")


def test_a_methods_control_is_a_comparison_of_its_own() -> None:
    def row(method: str, seed: int, value: float, **parameters: float) -> dict[str, Any]:
        given = {"kd": {"convention": "canonical", "temperature": 1.0, "weight": 1.0}, "none": {}}
        weights = {"w_re": 5.0, "w_str": 0.9, "w_sta": 1.15, "w_adv": 0.01, "temperature": 1.0}
        own = given.get(method, weights) | parameters
        name = "-".join(map(str, (method, *parameters.values(), seed)))
        return make_row(method, seed, run_id=name, dev_miou=value, method_parameters=json.dumps(own))

    rng = np.random.default_rng(0)
    rows = [make_row(role="teacher")]
    for s in range(SEEDS):
        level = 0.5 + 0.01 * s
        a, b, c, d = 0.002 * rng.normal(size=4)
        rows += [row("none", s, level + a), row("kd", s, level + 0.02 + b), row("sstkd", s, level + 0.06 + c)]
        rows.append(row("kd", s, level + 0.05 + d, weight=5.0))
    found = block(rows)
    line = next(x for x in found.methods if x.name.method == "sstkd")
    assert line.control == "kd(weight=5.0)" and line.vs_control is not None
    assert line.vs_control.difference.mean == pytest.approx(1.0, abs=0.4) and found.comparisons == 6
    (said,) = found.own_terms
    assert said.startswith("sstkd vs its response term, kd(weight=5.0): +") and said in to_markdown(table(rows))
    assert not any("response term" in x.text for x in found.findings)
    assert "vs_control_mean" in to_csv(table(rows)).splitlines()[0]
    # Its comparison is one of the family, so all have to be larger to be found.
    apart = replace(found, methods=tuple(replace(x, control="") for x in found.methods))
    ours, without = ({x.label: x.smallest[5] for x in power.by_method(each, [5])} for each in (found, apart))
    assert ours["sstkd"] > without["sstkd"]
    less = block([r for r in rows if "kd-5.0" not in r["run_id"]])
    assert less.own_terms == [] and any("kd(weight=5.0) for sstkd" in x.text for x in less.findings if x.unfair)
