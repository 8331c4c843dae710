"""The script for the first GPU, on the CPU with tiny networks: so that it works when there is one."""

import json
from pathlib import Path

import pytest
import torch

from tests.gpu import prove


@pytest.mark.slow
def test_every_section_that_a_cpu_has_succeeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prove.main(["--toy", "--to", str(tmp_path), "--minutes", "30"]) == 0
    found = json.loads((tmp_path / "prove.json").read_text())
    absent = {heading for heading, rows in found.items() if isinstance(rows, str)}
    if not torch.cuda.is_available():
        assert absent == {"Waits for the GPU", "Out of memory", "A dead context", "Compiled"}
        assert all(row["relative"] == 0 for row in found["First terms, here and on the CPU"])
    assert all(row["same weights"] is True for row in [*found["The same bits"], *found["Resumed"]])
    assert found["Together"][0]["same weights"] == "3 of 3" or torch.cuda.is_available()
    assert {row["method"] for row in found["Step times"]} == set(prove.TOY["methods"])
    assert all(row["gradient"] < 1e-3 for row in found["One rank"])
    assert isinstance(found["Beside a plain loop"][0]["ratio"], float) and len(found["Pairs a second"]) == 3
    page = (tmp_path / "prove.md").read_text()
    assert page.count("## ") == len(prove.SECTIONS) and page in capsys.readouterr().out + "\n"


def test_a_section_that_fails_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(proof: prove.Proof) -> prove.Rows:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(prove, "SECTIONS", {"Broken": broken, "The machine": prove.machine})
    assert prove.main(["--toy", "--to", str(tmp_path)]) == 1
    found = json.loads((tmp_path / "prove.json").read_text())
    assert found["Broken"] == "failed: RuntimeError: no such kernel" and found["The machine"][0]["torch"]


def test_after_the_minutes_the_rest_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prove, "SECTIONS", {"The machine": prove.machine})
    assert prove.main(["--toy", "--to", str(tmp_path), "--minutes", "-1"]) == 0
    assert "not run: the time was up" in (tmp_path / "prove.md").read_text()
