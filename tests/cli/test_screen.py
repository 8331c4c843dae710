import io
import re

import pytest
from rich.console import Console

from harness.cli.progress import clock, device_text, number, run_name, screen
from harness.execution.status import Status
from harness.training.progress import Progress
from tests.support.tiny import TINY, plan


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0, "0:00"),
        (59.4, "0:59"),
        (59.6, "1:00"),
        (187, "3:07"),
        (3599.7, "1:00:00"),
        (3729, "1:02:09"),
        (90000, "25:00:00"),
    ],
)
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (12345.0, "1e+04"),
        (0.0012, "1e-03"),
        (-0.5, "-0.50"),
    ],
)
def test_losses_in_few_characters(value, text):
    assert number(value) == text


def test_use_of_a_device():
    assert device_text({"memory_mb": 1228.8, "utilization": 97.6}) == "1.2G  98%"
    assert device_text({"memory_mb": 512.0, "utilization": None}) == "0.5G"
    assert device_text(None) == "" and device_text({"memory_mb": None}) == ""


def test_names_of_runs(tmp_path):
    runs = plan(tmp_path, methods=["none", {"sstkd": {"stages": ["stage1"]}}])
    assert [run_name(run) for run in runs] == ["teacher", "none seed 0", "sstkd(stages=[stage1]) seed 0"]


def experiment(folder, pairs=1, running=4):
    """Forty runs, of which some run."""
    (pair,) = TINY["pairs"]
    network = [pair["student"] | {"parameters": {"decoder_pyramid_channels": 32 * (i + 1)}} for i in range(pairs)]
    names = ["tiny", "a-pair-with-a-long-name"][:pairs]
    methods = ["none", "kd", {"sstkd": {"stages": ["stage1"]}}, {"cwd": {"tau": 2.0}}]
    runs = plan(
        folder,
        "train.steps=1000",
        pairs=[pair | {"name": name, "student": student} for name, student in zip(names, network, strict=True)],
        seeds=list(range(10)),
        methods=methods,
    )
    status = Status(runs, {run.run_id: "waiting" for run in runs})
    for i, state in enumerate(("ok", "ok", "failed")):
        status.change(runs[i], state)
    students = [run for run in runs[3:] if run.role == "student"]
    for i, run in enumerate([*students[: running // 2], *students[::-1]][:running]):
        status.change(run, "running")
        terms = {"task": 1.25, "structural": 0.5, "statistical": 0.25, "response": 12.5}
        device, node = {"memory_mb": 2048.0, "utilization": 50.0}, f"{i:02}" + "ab" * 27
        numbers = {"step": 100 + i, "steps": 1000, "loss": 14.5, "dev_miou": 0.401, "step_ms": 123.4}
        status.report(run.run_id, Progress(**{**numbers, "terms": terms, "device": device, "node": node}))
    return status


def shot(status, width, height):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    pairs = {run.pair for run in status.runs}
    console.print(screen(status, pairs, width, height, 75.0))
    return console.file.getvalue().splitlines()


def test_counts_and_running_runs(tmp_path):
    status = experiment(tmp_path)
    head, counts, titles, *rows = shot(status, 140, 30)
    assert "3/41 runs  1:15 elapsed  ETA" in head
    assert counts.split("  ") == ["2 ok", "1 failed", "4 running", "34 waiting", "tiny"]
    assert titles.split() == ["run", "seed", "step", "loss", "terms", "dev", "mIoU", "s/step", "device"]
    assert len(rows) == 4
    row = next(row for row in rows if "sstkd" in row)
    for text in ("sstkd(stages=[stage1])     0  ", "/1000", "14.500", "task 1.25 structural 0.50", "40.1", "0.123"):
        assert text in row
    assert row.endswith("2.0G  50%")


@pytest.mark.parametrize("pairs", [1, 2])
@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("width", [40, 60, 80, 100, 160, 250])
def test_it_fits_into_any_window(tmp_path, pairs, nodes, width):
    status = experiment(tmp_path, pairs)
    status.nodes = nodes
    lines = shot(status, width, 24)
    assert max(len(line.rstrip()) for line in lines) <= width
    assert len(lines) == 7, "no line is broken"
    table = "\n".join(lines[2:])
    assert table.count("/1000") == 4 and table.count("14.500") == 4
    assert len(re.findall(r" [09] +1\d\d/1000 ", table)) == 4, "a seed is never cut off"
    assert (" node" in lines[2]) == (nodes > 1 and width >= 80)
    assert ("pair" in lines[2]) == (pairs > 1 and width >= 80)
    assert ("0.123" in table) == (width >= 60)


def test_as_many_runs_as_fit(tmp_path):
    status = experiment(tmp_path, running=30)
    lines = shot(status, 100, 24)
    assert len(lines) == 23
    assert sum("/1000" in line for line in lines) == 19
    assert lines[-1].strip() == "... and 11 more running"
    assert len(shot(experiment(tmp_path, running=20), 100, 24)) == 23, "the last line is not wasted on one run"
    assert len(shot(status, 100, 3)) == 5, "never less than one run"


def test_a_run_that_has_said_nothing_yet(tmp_path):
    status = experiment(tmp_path, running=0)
    run = status.runs[5]
    assert len(shot(status, 80, 24)) == 2
    status.change(run, "running")
    assert "starting" in shot(status, 80, 24)[-1]
    status.report(run.run_id, Progress(note="starts again"))
    assert "starting" in shot(status, 80, 24)[-1]
    status.report(run.run_id, Progress(step=1, steps=1000, loss=float("nan"), terms={"task": float("nan")}))
    assert "nan" in shot(status, 80, 24)[-1]
