"""The figure of gradient norms, from rows."""

import numpy as np
import pytest

from harness.analysis.comparison import quick_table
from harness.report.plots.gradients import gradient_figure, ratios
from harness.report.plots.style import figure_svg
from harness.report.write import write_report
from harness.results import store
from tests.support.rows import make_row


def logged(*norms):
    return [{"step": 10 * i + 1, "terms": terms} for i, terms in enumerate(norms)]


def folder(path, gradients):
    """Rows of none and kd, the latter with these gradients by seed."""
    (path / "runs").mkdir()
    for seed, each in enumerate(gradients):
        store.write_run(path, make_row("none", seed))
        store.write_run(path, make_row("kd", seed, gradients=each))
    return path


TWO = [
    logged({"task": 2.0, "kd": 1.0, "far": 8.0}, {"task": 1.0, "kd": 4.0}),
    logged({"task": 1.0, "kd": 2.0, "far": 1.0}, {"task": 1.0, "kd": 1.0}, {"task": 1.0, "kd": 9.0}),
]


def test_the_ratio_is_the_geometric_mean_over_runs_at_steps_that_all_have(tmp_path):
    rows = store.read_rows(folder(tmp_path, TWO), store.SCHEMA.names)
    (block,) = quick_table(rows).blocks
    found = ratios(block, {row["run_id"]: row["gradients"] for row in rows.to_pylist()})
    assert list(found) == ["kd"] and set(found["kd"]) == {"kd", "far"}
    steps, values = found["kd"]["kd"]
    assert steps.tolist() == [1, 11]
    np.testing.assert_allclose(values, [np.sqrt(0.5 * 2), np.sqrt(4 * 1)])
    assert found["kd"]["far"][0].tolist() == [1] and found["kd"]["far"][1] == pytest.approx(2)
    text = figure_svg(gradient_figure([found]), text=True)
    assert all(f">{word}</text>" in text for word in ("kd", "far", "task"))
    with pytest.raises(ValueError, match=r"train\.gradients_every logs them"):
        gradient_figure([{}])


def test_it_is_a_file_and_on_the_page_where_it_was_logged(tmp_path):
    files = write_report(folder(tmp_path, TWO))
    assert files["gradients_png"].read_bytes().startswith(b"\x89PNG") and ">Gradients<a " in files["html"].read_text()


def test_without_gradients_nothing_is_said(tmp_path):
    files = write_report(folder(tmp_path, [None, None]))
    assert "gradients_png" not in files and "Gradients" not in files["html"].read_text()
