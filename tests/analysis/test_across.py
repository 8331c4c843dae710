"""Methods over many pairs: the matrix, standings and what may be concluded; on rows that are made up."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from harness.analysis.across import WITHIN, Across, across, class_gains, costs, pareto, profile_gaps
from harness.analysis.comparison import COLUMNS, quick_table
from harness.analysis.exports import ExportCost, Timing
from harness.analysis.ranking import critical_difference
from harness.analysis.stats import mean_interval
from harness.cli.app import app
from harness.metrics import class_iou
from harness.report.plots import across as acrossplots
from harness.report.plots.style import figure_png
from harness.results import store
from harness.results.exports import write_export
from harness.results.schema import SCHEMA
from tests.support import tiny
from tests.support.rows import make_experiment, make_export, make_row

METHODS = ("none", "kd", "cwd", "sstkd")
LEVEL = {"none": 0.50, "kd": 0.51, "cwd": 0.53, "sstkd": 0.52}


def rows(pair: str, shift: float = 0.0, methods: tuple[str, ...] = METHODS, seeds: int = 5) -> list[dict[str, Any]]:
    rng = np.random.default_rng(sum(map(ord, pair)))
    out = []
    for row in make_experiment(methods, seeds):
        value = LEVEL[row["method"]] + shift + 0.01 * row["seed"] + float(rng.normal(0, 1e-4))
        out.append(row | {"pair": pair, "run_id": f"{pair}-{row['run_id']}", "dev_miou": value, "val_miou": value})
    return out


def joined(*experiments: list[dict[str, Any]]) -> Across:
    return across([table(r) for r in experiments])


def table(records: list[dict[str, Any]], methods: tuple[str, ...] = METHODS) -> Any:
    return quick_table(
        pa.Table.from_pylist(
            [{c: r.get(c) for c in COLUMNS} for r in records], pa.schema([SCHEMA.field(c) for c in COLUMNS])
        ),
        methods,
    )


def on(dataset: str, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [r | {"dataset": dataset} for r in records]


def three() -> list[list[dict[str, Any]]]:
    """Three datasets of one pair each."""
    return [on("x", rows("a")), on("y", rows("b", 0.1)), on("z", rows("c", 0.2))]


def test_standings_by_hand() -> None:
    found = joined(*three())
    assert [s.label for s in found.ranked] == ["cwd", "sstkd", "kd", "none"]
    assert [s.rank for s in found.ranked] == [1, 2, 3, 4]
    first, last = found.ranked[0], found.ranked[-1]
    means = [x.vs_none.difference.mean for t in found.tasks for x in t.block.methods if x.label == "cwd" and x.vs_none]
    assert first.gain == mean_interval(means) and first.gain.mean == pytest.approx(3.0, abs=0.05)
    assert (first.wins, first.losses) == (3, 0)
    assert first.area == 1.0 and last.gain is None and last.better is None
    assert last.area == pytest.approx(1 - 3.0 / WITHIN, abs=0.01)
    # Seeds 0 to 4 lie a point apart: of 25 pairs of runs cwd wins all in which it is not three or four seeds behind.
    assert first.better is not None and first.better.mean == pytest.approx(22.5 / 25, abs=0.07)
    # The baseline is not among the methods that are tested against each other.
    assert found.critical == pytest.approx(critical_difference(3, 3)) and found.friedman is not None
    assert found.tested == {"cwd": 1, "sstkd": 2, "kd": 3} and found.groups == (("cwd", "sstkd"), ("sstkd", "kd"))


def test_pairs_of_one_dataset_are_one_unit() -> None:
    """Twelve pairs of one dataset are one dataset: no interval, no test; with a second one there are two units."""
    twelve = [rows(f"pair-{i:02}") for i in range(12)]
    alone = joined(*twelve)
    assert alone.datasets == ("texmosaic",) and (alone.friedman, alone.critical, alone.groups) == (None, None, ())
    cwd = next(s for s in alone.ranked if s.label == "cwd")
    assert cwd.rank == 1 and cwd.gain is not None and (cwd.gain.low, cwd.gain.n) == (None, 1)
    assert "Nothing can be concluded from one dataset" in alone.pick
    # On the other dataset kd is best, by one pair: it counts as much as the twelve.
    other = [
        r | {"val_miou": r["val_miou"] + (0.05 if r["method"] == "kd" else 0.0)} for r in on("landcover", rows("z"))
    ]
    both = joined(*twelve, other)
    by_label = {s.label: s for s in both.ranked}
    assert (by_label["cwd"].rank, by_label["kd"].rank) == (1.5, 2.0)
    assert by_label["kd"].gain is not None and by_label["kd"].gain.n == 2
    assert by_label["kd"].gain.mean == pytest.approx((1.0 + 6.0) / 2, abs=0.05)
    assert both.tested["cwd"] == 1.5 and both.critical == pytest.approx(critical_difference(3, 2))


def test_the_best_rank_is_not_called_ahead_of_a_method_with_larger_gains() -> None:
    """cwd has the best rank over the pairs, kd the largest gain on every one of 40 datasets, by one pair of three."""

    def changed(pair: str, kd: float) -> list[dict[str, Any]]:
        return [r | {"val_miou": r["val_miou"] + (kd if r["method"] == "kd" else 0.0)} for r in rows(pair)]

    many = [on(f"data-{i:02}", [*changed(f"a{i:02}", 0.5), *rows(f"b{i:02}"), *rows(f"c{i:02}")]) for i in range(40)]
    found = joined(*many)
    assert found.ranked[0].label == "cwd" and min(found.tested, key=lambda x: found.tested[x]) == "kd"
    assert "not significantly ahead of kd" in found.pick


def test_the_matrix_shows_differences_and_what_is_missing() -> None:
    found = joined(rows("a"), rows("b", methods=("none", "kd")))
    a, b = found.tasks
    assert found.cell("cwd", a).startswith("+3.0") and "▲ (n=5)" in found.cell("cwd", a)
    assert found.cell("cwd", b) == "not run"
    assert found.cell("none", a).endswith("(n=5)") and found.cell("none", a).startswith("52.0")
    assert [s.label for s in found.ranked] == ["kd", "none"]
    assert found.unranked == dict.fromkeys(("cwd", "sstkd"), "not run, or not completely, on b on texmosaic")


def test_a_failed_method_is_last_on_its_task_and_kept() -> None:
    bad = [
        r | ({"status": "failed", "dev_miou": None, "val_miou": None} if (r["method"], r["seed"]) == ("cwd", 0) else {})
        for r in rows("b")
    ]
    found = joined(on("x", rows("a")), on("y", bad), on("z", rows("c")))
    cwd = next(s for s in found.ranked if s.label == "cwd")
    assert cwd.rank == pytest.approx((1 + 4 + 1) / 3) and cwd.gain is None
    assert cwd.area == pytest.approx(2 / 3, abs=1e-9)
    assert "failed (1 of 5)" in found.cell("cwd", found.tasks[1])


def test_the_pick_names_its_uncertainty() -> None:
    found = joined(*three())
    assert found.pick.startswith("cwd has the best mean rank over 3 pairs: 1.00 of 4, +3.0")
    assert "It is not significantly ahead of sstkd" in found.pick and "over 3 datasets" in found.pick
    many = joined(*(on(f"data-{i:02}", rows(f"pair-{i:02}")) for i in range(40)))
    assert "It is significantly ahead of all other methods" in many.pick
    alone = joined(rows("a")).pick
    assert alone.startswith("cwd has the best mean rank over 1 pair: 1.00 of 4, +3.0")
    assert alone.endswith("Nothing can be concluded from one dataset about which method is best on another.")
    tie = [r | {"val_miou": 0.6 + 0.01 * r["seed"]} if r["method"] in ("cwd", "kd") else r for r in rows("a")]
    assert joined(tie, [r | {"pair": "b"} for r in tie]).pick.startswith("cwd and kd share the best mean rank")


def test_one_pair_in_two_experiments_is_two_tasks() -> None:
    second = [r | {"experiment": "second"} for r in rows("a")]
    names = [task.name for task in joined(rows("a"), second).tasks]
    assert names == ["a on texmosaic (quickstart)", "a on texmosaic (second)"]


def test_one_experiment_is_not_two_tasks() -> None:
    with pytest.raises(ValueError, match=r"a on texmosaic \(quickstart\): given twice"):
        joined(rows("a"), rows("b"), rows("a"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol_version": "2.0"}, "several protocol versions"),
        ({"ruleset": "searched"}, "several rulesets"),
        ({"budget_unit": "seconds"}, "several units of the budget"),
    ],
)
def test_what_must_not_be_compared_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        joined(rows("a"), [r | change for r in rows("b")])


def test_without_a_baseline_there_are_no_gains() -> None:
    with pytest.raises(ValueError, match="the student without distillation has no result"):
        joined([r for r in rows("a") if r["method"] != "none" or r["role"] == "teacher"])
    with pytest.raises(ValueError, match="name at least one experiment"):
        across([])


def test_pareto_against_the_definition() -> None:
    rng = np.random.default_rng(0)
    points = [tuple(map(float, p)) for p in rng.integers(0, 12, (60, 2))]
    front = pareto(points)  # type: ignore[arg-type]

    def beaten(i: int) -> bool:
        return any(
            q[0] <= points[i][0] and q[1] >= points[i][1] and (q != points[i] or j < i)
            for j, q in enumerate(points)
            if j != i
        )

    assert sorted(front) == [i for i in range(60) if not beaten(i)]
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


def test_class_gains_are_means_over_paired_seeds() -> None:
    records = {r["run_id"]: r for r in rows("a")}
    (task,) = joined(list(records.values())).tasks
    gains = class_gains(task, records, "val_confusion")
    assert gains is not None and set(gains) == {"kd", "cwd", "sstkd"}

    def iou(method: str, seed: int) -> Any:
        row = next(r for r in records.values() if (r["method"], r["seed"], r["role"]) == (method, seed, "student"))
        return class_iou(np.reshape(row["val_confusion"], (6, 6)))

    expected = np.mean([100 * (iou("kd", s) - iou("none", s)) for s in range(5)], axis=0)
    np.testing.assert_allclose(gains["kd"], expected)
    assert (
        class_gains(
            task, {k: v | {"val_boundary_confusion": None} for k, v in records.items()}, "val_boundary_confusion"
        )
        is None
    )


def test_the_latency_of_one_student_is_one_figure() -> None:
    """Methods differ in what their runs measured; the network that is predicted with is the same."""
    found = joined(rows("a"))
    times = {"none": 4.0, "kd": 5.0, "cwd": 9.0, "sstkd": None}
    records = {r["run_id"]: r | {"student_latency_ms": times[r["method"]]} for r in rows("a")}
    assert {p.latency_ms for p in costs(found, records)} == {5.0}
    assert {p.train_seconds for p in costs(found, records)} == {records[next(iter(records))]["train_seconds"]}


def test_times_of_different_devices_are_not_one_comparison() -> None:
    records = {r["run_id"]: r | {"train_seconds": 10.0, "student_latency_ms": 2.0} for r in rows("a")}
    for row in records.values():
        if row["method"] in ("cwd", "sstkd") and (row["method"] == "cwd" or row["seed"] > 0):
            row |= {"device": "NVIDIA H100", "train_seconds": 1.0, "student_latency_ms": 0.1}
    points = {p.label: p for p in costs(joined(rows("a")), records)}
    assert {label: p.train_seconds for label, p in points.items()} == {
        "none": 10.0,
        "kd": 10.0,
        "cwd": None,
        "sstkd": 10.0,
    }
    assert {p.latency_ms for p in points.values()} == {2.0} and all(p.macs for p in points.values())


def test_pictures_are_drawn() -> None:
    records = {r["run_id"]: r for experiment in three() for r in experiment}
    found = joined(*three(), rows("d", methods=("none", "kd", "cwd")))
    behind = profile_gaps(found)
    assert set(behind) == {s.label for s in found.ranked} and all(len(v) == 4 for v in behind.values())
    all_rows = records | {r["run_id"]: r for r in rows("d")}
    points = costs(found, all_rows)
    assert len(points) == 4 * 3 + 3 and all(p.macs and p.train_seconds and p.latency_ms for p in points)
    drawn: list[Figure] = [
        acrossplots.heat_map(found),
        acrossplots.rank_plot(found),
        acrossplots.profile_plot(found, behind),
        acrossplots.cost_plot(found, points),
    ]
    assert len(drawn[3].axes) == 4
    # Rows from before latency was a column: its axes are left out.
    assert len(acrossplots.cost_plot(found, [replace(p, latency_ms=None) for p in points]).axes) == 3
    for figure in drawn:
        assert len(figure_png(figure, 60)) > 4_000
    texts = {t.get_text() for t in drawn[0].axes[0].texts}
    assert len(drawn[0].axes[0].patches) >= 1 and any(t.startswith("+3.0") for t in texts)


def test_the_command_writes_tables_and_pictures(tmp_path: Path) -> None:
    file = tiny.write(tmp_path, methods=["none", "kd", "cwd"], seeds=[0, 1, 2])
    words = ["compare", str(file), "--results", str(tmp_path / "r"), "--to", str(tmp_path / "out")]
    nothing = CliRunner().invoke(app, words)
    assert nothing.exit_code == 2 and "no results yet" in nothing.output
    for run in tiny.plan(tmp_path, methods=["none", "kd", "cwd"], seeds=[0, 1, 2]):
        row = make_row("none" if run.role == "teacher" else run.method.name, run.seed, role=run.role, run_id=run.run_id)
        row |= {"experiment": "tiny", "pair": "tiny", "teacher_run_id": run.teacher_run, "data_hash": None}
        row |= {} if run.role == "teacher" else {"weights_sha256": "0" * 64}
        store.write_run(tmp_path / "r" / "tiny", row)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "Nothing can be concluded from one dataset" in " ".join(done.output.split())
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        "compare.md",
        "compare.html",
        "gains.png",
        "gains.svg",
        "cost-texmosaic.png",
        "cost-texmosaic.svg",
    }
    text = (tmp_path / "out" / "compare.md").read_text()
    assert "## tiny on texmosaic: gain of IoU by class (val)" in text and "| brick |" in text
    assert not math.isnan(float(text.split("| kd | ")[1].split(" ")[0]))
    # Once there are exports, they are in the page and have a picture for each form.
    for row in store.read_rows(tmp_path / "r" / "tiny", ["run_id", "role", "val_miou", "weights_sha256"]).to_pylist():
        if row["role"] == "student":
            write_export(tmp_path / "r" / "tiny", make_export(row, device="A"))
            write_export(tmp_path / "r" / "tiny", make_export(row, device="B"))
    assert CliRunner().invoke(app, words).exit_code == 0
    picture = "exports-texmosaic-onnx-int8-by-64-images-of-train"
    added = {path.name for path in (tmp_path / "out").iterdir()} - written
    assert added == {f"{picture}.png", f"{picture}.svg"}
    more = (tmp_path / "out" / "compare.md").read_text()
    assert more.startswith(text) and f"({picture}.png)" in more and "| mIoU int8 |" in more


def test_exports_are_drawn_against_latency_and_size() -> None:
    """A panel for each device and one for the size; the front is that of `pareto`."""
    found = joined(*three())
    slow, fast = Timing("A", 1, (8, 8)), Timing("B", 4, (8, 8))
    points = [ExportCost("none", "t", 50.0, 1.0, {slow: 3.0, fast: 1.0}), ExportCost("kd", "t", 51.0, 2.0, {slow: 4.0}),
              ExportCost("cwd", "t", 49.0, 3.0, {slow: 5.0, fast: 2.0})]  # fmt: skip
    figure = acrossplots.export_plot(found, points, "what it is")
    assert [axes.get_xlabel().replace("\n", " ") for axes in figure.axes] == [
        "latency on A, 1 thread, 8x8, ms", "latency on B, 4 threads, 8x8, ms", "size of the files, MiB",
    ]  # fmt: skip
    fronts = [axes.get_lines()[-1 if i else -4].get_xydata().tolist() for i, axes in enumerate(figure.axes)]
    assert fronts == [[[3.0, 50.0], [4.0, 51.0]], [[1.0, 50.0]], [[1.0, 50.0], [2.0, 51.0]]]
    assert len(figure_png(figure, 60)) > 4_000
