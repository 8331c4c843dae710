"""docs/your-data.md: its script, experiment file and class, as they stand there."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.datasets.inspect import check
from harness.experiment.load import load
from harness.experiment.plan import outline
from harness.results import paths, store
from harness.testing import check_dataset
from harness.training.gate import Facts, problems
from tests.support import tiny

DOCS = Path(__file__).parents[2] / "docs"
SHORT = ["train.steps=2", "pairs.0.teacher.steps=1", "train.augment.crop_hw=[32, 32]"]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "remembered"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = (DOCS / "your-data.md").read_text()
    for body in re.findall(r"```(?:python|yaml)\n(.*?)```", text, re.S):
        (tmp_path / body.partition("\n")[0].removeprefix("# ")).write_text(body)
    exec(compile(Path("make_fields.py").read_text(), "make_fields.py", "exec"), {})
    yield text
    sys.modules.pop("mydata", None)


@pytest.mark.slow
def test_the_tutorial_works_as_it_is_written(written: str, tmp_path: Path) -> None:
    given = {"val_fraction": 0.2, "val_seed": 0, "dev_fraction": 0.1, "dev_seed": 0, "short_side": None}
    found = check("folder", Path("fields"), given)
    assert found.problems == [] and [line[1] for line in found.splits] == ["32", "6"]
    assert "soil, plant" in written and "train      24 pairs" in check_dataset("mydata:Fields", "fields")
    (second,) = re.findall(r"sstkd-bench run fields.yaml (--set.*)\n", written)
    sets = [text.strip('"') for text in re.findall(r'--set ("[^"]*"|\S+)', second)]
    for overrides, classes in (([], ["soil", "crop", "weed"]), ([*sets, "methods=[none]"], ["soil", "plant"])):
        experiment = load("fields.yaml", [*SHORT, *overrides])
        runs = outline(experiment)
        assert list(problems(runs[:2], Facts(experiment.resources, tmp_path))) == []
        for run in runs[:2]:
            assert tiny.in_process(run, tmp_path / "r") == "ok"
            assert store.read_row(paths.run_path(tmp_path / "r", run.run_id))["class_names"] == classes
