"""A search tells `sstkd-bench status` of its trials, as Ray Tune tells the search."""

from types import SimpleNamespace

from harness.execution import status_file
from harness.experiment.studies import studies_of
from harness.results.paths import search_folder
from harness.search import outcome, points
from harness.search.status import TrialStatus
from harness.search.tuner import _Session
from tests.support.searches import experiment


class Trial(SimpleNamespace):
    def __str__(self):
        return "1-2-1001"


def test_what_tune_reports_of_a_trial_is_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(status_file, "CHANGE_SECONDS", 0.0)
    monkeypatch.setattr(status_file, "EACH_SECONDS", 0.0)
    of = experiment(tmp_path, methods=["none", "kd"])
    directory, studies = tmp_path / "tiny", studies_of(of)
    folder = search_folder(directory)
    context = SimpleNamespace(studies=studies, algorithm="sobol", folder=folder)
    status = TrialStatus(outcome.outcomes(of, directory))
    told = []
    session = _Session(context, None, of, [], told.append, status, status_file.StatusFile(folder))
    trial = Trial(trial_id="x", config={"each": {"values": points.drawn(of, studies)[1][2]}})
    session.on_trial_start(0, [], trial)
    session.on_step_end(0, [])
    (begun,) = status_file.read(folder)["running"]
    assert begun["step"] is None and begun["trial"] == 2 and begun["pair"] == "tiny" and told[0].status == "running"
    assert told[0].seed == 1001
    result = {"dev_miou": 0.3, "step_ms": 5.0, "pid": 7, "hostname": "gpu1", "curve": [{"step": 3, "dev_miou": 0.3}]}
    session.on_trial_result(1, [], trial, result)
    session.on_step_end(1, [])
    found = status_file.read(folder)
    (run,) = found["running"]
    assert {k: run[k] for k in ("step", "steps", "dev_miou", "node", "pid")} == {
        "step": 3,
        "steps": 6,
        "dev_miou": 0.3,
        "node": "gpu1",
        "pid": 7,
    }
    assert found["counts"]["running"] == 1 and found["counts"]["waiting"] == 15 and found["eta_seconds"] is None
