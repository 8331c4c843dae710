"""Published weights by tag, repository and package: fetched once, identified by content, explained where missing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import save

import harness
from harness.errors import machine_failed
from harness.experiment.load import load
from harness.experiment.plan import outline
from harness.experiment.spec import Experiment, Run
from harness.experiment.weights import Origin, of_networks
from harness.models import build, hub, load_weights
from harness.results.record import _described
from harness.results.weights import _digested, with_digests
from tests.support import tiny
from tests.support.hubs import COMMIT, GATED, Hub
from tests.support.published import DATA, ENCODER, IMAGENET, REPOSITORY, experiment, ids, pickled, random_state, student


def test_a_tag_is_fetched_once_and_is_its_content(tmp_path: Path, served: Hub, content: bytes) -> None:
    said: list[str] = []
    bench = harness.Bench(experiment(tmp_path, IMAGENET), tmp_path)
    weights = student(bench.fetch_weights(said.append))
    assert Path(weights.path).read_bytes() == content
    assert weights.source == Origin(
        kind="hub", name=REPOSITORY, revision=COMMIT, file="model.safetensors", licence="apache-2.0"
    )
    assert len(said) == 2 and REPOSITORY in said[0] and "MB, licence apache-2.0" in said[1]
    asked = len(served.asked)
    again = harness.Bench(experiment(tmp_path, IMAGENET), tmp_path)
    assert student(again.experiment) == weights and len(served.asked) == asked
    (tmp_path / "by_hand.safetensors").write_bytes(content)
    by_path = experiment(tmp_path, f"pairs.0.student.encoder_weights={{path: {tmp_path}/by_hand.safetensors}}")
    assert ids(bench.experiment) == ids(by_path) != ids(experiment(tmp_path))


def test_the_weights_of_a_tag_are_those_that_are_built(tmp_path: Path, served: Hub) -> None:
    found = harness.Bench(experiment(tmp_path, IMAGENET), tmp_path).fetch_weights()
    own = build(found.pairs[0].student, 5, 0).loaded_encoder().state_dict()
    assert torch.equal(own["model.conv_stem.weight"], random_state(7)["conv_stem.weight"])


def test_check_names_the_file_and_how_it_comes_here(tmp_path: Path, served: Hub) -> None:
    for use in (lambda b: b.experiment, lambda b: b.states(), lambda b: b.runs(), lambda b: b.pending()):
        with pytest.raises(ValueError) as caught:
            use(harness.Bench(experiment(tmp_path, IMAGENET), tmp_path))
        text = str(caught.value)
        assert text.startswith(f"pairs.0.student.encoder_weights: imagenet of tu-{ENCODER} is model.safetensors")
        assert f"hf download {REPOSITORY} model.safetensors" in text and "\n" not in text
        assert f"{tmp_path}/hub/models--timm--mobilenetv3_small_050.lamb_in1k" in text
    assert served.asked == []


def _offline(monkeypatch: pytest.MonkeyPatch, value: bool) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", value)
    # Releases before 1.0 keep the connection that they made before.
    getattr(huggingface_hub.utils._http, "reset_sessions", lambda: None)()


def test_offline_is_offline(tmp_path: Path, served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    _offline(monkeypatch, True)
    with pytest.raises(ValueError, match=r"cannot be fetched: HF_HUB_OFFLINE is set\. On"):
        harness.Bench(experiment(tmp_path, IMAGENET), tmp_path).run()
    assert served.asked == []
    _offline(monkeypatch, False)
    first = student(harness.Bench(experiment(tmp_path, IMAGENET), tmp_path).fetch_weights())
    _offline(monkeypatch, True)
    asked = len(served.asked)
    assert student(harness.Bench(experiment(tmp_path, IMAGENET), tmp_path).experiment) == first
    assert len(served.asked) == asked


def test_a_prepared_cache_is_enough(tmp_path: Path, served: Hub, content: bytes) -> None:
    folder = tmp_path / "hub" / "models--timm--mobilenetv3_small_050.lamb_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "model.safetensors").write_bytes(content)
    weights = student(harness.Bench(experiment(tmp_path, IMAGENET), tmp_path).experiment)
    assert weights.source is not None and weights.source.licence is None and served.asked == []


@pytest.mark.slow
def test_the_real_variables_are_honoured(tmp_path: Path, served: Hub, content: bytes) -> None:
    """HF_HOME and HF_ENDPOINT, in a process of its own."""
    path = tiny.write(tmp_path, data=DATA)
    code = (
        "import sys, harness; b = harness.Bench(harness.load(sys.argv[1], [sys.argv[2]]), sys.argv[3]); "
        "print(b.fetch_weights().pairs[0].student.encoder_weights.path)"
    )
    env = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": served.address, "HF_HUB_OFFLINE": "0"}
    env.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), IMAGENET, str(tmp_path)], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr
    found = Path(done.stdout.strip())
    assert found.read_bytes() == content and found.is_relative_to(tmp_path / "home" / "hub")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (
            {"config.json": b"{}"},
            r"the repository .* has none of model.safetensors, pytorch_model.bin. .*\{path: FILE\}",
        ),
        ({GATED: b""}, "its terms have to be accepted on its page first; then set HF_TOKEN"),
        (None, r"no such repository, or it is private \(set HF_TOKEN\)"),
    ],
)
def test_why_nothing_came(tmp_path: Path, served: Hub, files: dict[str, bytes] | None, said: str) -> None:
    served.repositories.clear()
    if files is not None:
        served.repositories[REPOSITORY] = files
    with pytest.raises(ValueError, match=said) as caught:
        harness.Bench(experiment(tmp_path, IMAGENET), tmp_path).run()
    assert "\n" not in str(caught.value) and served.address not in str(caught.value)


def test_a_repository_that_has_no_safetensors(tmp_path: Path, served: Hub) -> None:
    served.repositories[REPOSITORY] = {"pytorch_model.bin": pickled(random_state(8))}
    found = harness.Bench(experiment(tmp_path, IMAGENET), tmp_path).fetch_weights()
    assert student(found).path.endswith("pytorch_model.bin")
    own = build(found.pairs[0].student, 5, 0).loaded_encoder().state_dict()
    assert torch.equal(own["model.conv_stem.weight"], random_state(8)["conv_stem.weight"])


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def test_what_a_hub_sends_is_not_executed(tmp_path: Path, served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    served.repositories[REPOSITORY] = {"pytorch_model.bin": pickled({"conv_stem.weight": Payload()})}
    with pytest.raises(ValueError, match="only code can make"):
        harness.Bench(experiment(tmp_path, IMAGENET), tmp_path).run()
    assert not (tmp_path / "executed").exists()


def test_a_file_of_another_digest_than_the_experiment_says(tmp_path: Path, served: Hub) -> None:
    pinned = f"pairs.0.student.encoder_weights={{tag: imagenet, sha256: {'a' * 64}}}"
    with pytest.raises(ValueError, match=f"has sha256 .*, expected {'a' * 64}. imagenet is another file"):
        harness.Bench(experiment(tmp_path, pinned), tmp_path).fetch_weights()


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
def test_a_repository_is_a_checkpoint(tmp_path: Path, served: Hub, revision: str) -> None:
    plain = experiment(tmp_path)
    state = build(plain.pairs[0].teacher, 5, 3).state_dict()
    served.repositories["me/teacher"] = {"pytorch_model.bin": b"other", "model.safetensors": save(state)}
    found = harness.Bench(experiment(tmp_path, f"pairs.0.teacher.checkpoint=hf:me/teacher{revision}"), tmp_path)
    checkpoint = found.fetch_weights().pairs[0].teacher.checkpoint
    assert checkpoint is not None and checkpoint.source is not None
    assert (checkpoint.source.revision, checkpoint.source.file) == (COMMIT, "model.safetensors")
    assert load_weights(checkpoint).keys() == state.keys()


def test_a_repositorys_description_comes_with_its_weights(tmp_path: Path, served: Hub) -> None:
    described = {"model.safetensors": save(random_state(3)), "config.json": b'{"_model_class": "Unet"}'}
    served.repositories["me/described"] = described
    given = "pairs.0.teacher.checkpoint=hf:me/described"
    checkpoint = harness.Bench(experiment(tmp_path, given), tmp_path).fetch_weights().pairs[0].teacher.checkpoint
    assert checkpoint is not None
    assert Path(checkpoint.path).with_name("config.json").read_bytes() == described["config.json"]
    assert not Path(checkpoint.path).with_name("preprocessor_config.json").exists()


def test_a_revision_that_is_not_there(tmp_path: Path, served: Hub) -> None:
    served.repositories["me/teacher"] = {"model.safetensors": b""}
    with pytest.raises(ValueError, match=r"pairs.0.teacher.checkpoint: .*there is no such revision.*--revision v9"):
        harness.Bench(experiment(tmp_path, "pairs.0.teacher.checkpoint=hf:me/teacher@v9"), tmp_path).run()


def test_a_worker_elsewhere_fetches_the_very_file(tmp_path: Path, served: Hub, content: bytes) -> None:
    """Its run comes with the head's path, which it does not have; the digest is compared."""
    found = student(harness.Bench(experiment(tmp_path, IMAGENET), tmp_path).fetch_weights())
    there = found.model_copy(update={"path": "/only/on/the/head/model.safetensors"})
    assert load_weights(there).keys() == random_state(7).keys()
    os.rename(tmp_path / "hub", tmp_path / "gone")
    assert load_weights(there).keys() == random_state(7).keys()
    os.rename(tmp_path / "hub", tmp_path / "gone2")
    served.repositories[REPOSITORY] = {"model.safetensors": save(random_state(9))}
    with pytest.raises(ValueError, match=f"has sha256 .*, expected {found.sha256}"):
        load_weights(there)


def test_an_address_is_fetched_into_torchs_cache(tmp_path: Path, served: Hub) -> None:
    import hashlib

    sent = pickled(random_state(7))
    name = f"resnet18-{hashlib.sha256(sent).hexdigest()[:8]}.pth"
    served.plain[f"/models/{name}"] = sent
    place = hub.by_url(f"{served.address}/models/{name}")
    assert hub.at_hand(place) is None and f"curl -L {served.address}/models/{name} -o {name}" in hub.by_hand(place)
    path, origin = hub.fetch(place)
    assert path == tmp_path / "torch" / "hub" / "checkpoints" / name and path.read_bytes() == sent
    assert (origin.kind, origin.name) == ("url", f"{served.address}/models/{name}")
    asked = len(served.asked)
    assert hub.fetch(place) == (path, origin) and len(served.asked) == asked
    path.write_bytes(sent[:100])
    with pytest.raises(ValueError, match="has not the sha256 that its name claims"):
        hub.at_hand(place)
    served.plain["/models/resnet18-00000000.pth"] = sent
    for file, said in (("resnet18-00000000.pth", "has not the digest"), ("resnet18-11111111.pth", "cannot be fetched")):
        with pytest.raises(ValueError, match=said):
            hub.fetch(hub.by_url(f"{served.address}/models/{file}"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's library waits before it tries again."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)


def test_what_arrives_in_part_is_not_kept(tmp_path: Path, served: Hub) -> None:
    served.plain["/models/plain.pth"], served.cut = pickled(random_state(7)), ("plain.pth",)
    place = hub.by_url(f"{served.address}/models/plain.pth")
    with pytest.raises(
        ConnectionError, match=r"bytes arrived, and \d+ more did not\. On a machine with a network: curl"
    ):
        hub.fetch(place)
    assert hub.at_hand(place) is None and not list((tmp_path / "torch").rglob("*.pth*t"))
    served.cut = ()
    assert hub.fetch(place)[0].read_bytes() == served.plain["/models/plain.pth"]


@pytest.mark.parametrize("file", ["model.safetensors", "README.md"])
def test_a_connection_that_ends_is_one_line(tmp_path: Path, served: Hub, impatient: None, file: str) -> None:
    served.cut = (file,)
    bench = harness.Bench(experiment(tmp_path, IMAGENET), tmp_path)
    if file == "README.md":  # the licence is worth no run
        source = student(bench.fetch_weights()).source
        assert source is not None and source.licence is None
        return
    with pytest.raises(ValueError, match=f"cannot be fetched: .* hf download {REPOSITORY}") as caught:
        bench.fetch_weights()
    assert "\n" not in str(caught.value) and served.address not in str(caught.value)


@pytest.mark.parametrize("raised", [RuntimeError("Data processing error: https://x.y/z?sig=SECRET reset"), EOFError()])
def test_a_transfer_of_another_library_that_fails(
    tmp_path: Path, served: Hub, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    def fails(*given: Any, **more: Any) -> None:
        raise raised

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    with pytest.raises(ValueError, match="cannot be fetched: ") as caught:
        harness.Bench(experiment(tmp_path, IMAGENET), tmp_path).fetch_weights()
    assert "SECRET" not in str(caught.value)


def test_a_network_that_fails_is_the_machines_fault(tmp_path: Path, served: Hub, impatient: None) -> None:
    found = student(harness.Bench(experiment(tmp_path, IMAGENET), tmp_path).fetch_weights())
    there = found.model_copy(update={"path": "/only/on/the/head/model.safetensors"})
    os.rename(tmp_path / "hub", tmp_path / "gone")
    served.cut = ("model.safetensors",)
    with pytest.raises(ConnectionError) as caught:
        load_weights(there)
    assert machine_failed(caught.value)
    served.cut, served.repositories = (), {}
    with pytest.raises(ValueError, match="no such repository") as refused:
        load_weights(there)
    assert not machine_failed(refused.value)


def test_a_path_that_must_not_be_looked_at_is_another_machines(
    tmp_path: Path, served: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = student(harness.Bench(experiment(tmp_path, IMAGENET), tmp_path).fetch_weights())
    whole = Path.is_file

    def is_file(path: Path) -> bool:
        if path.is_relative_to("/root/of/another"):
            raise PermissionError(13, "Permission denied")
        return whole(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    there = found.model_copy(update={"path": "/root/of/another/model.safetensors"})
    assert load_weights(there).keys() == random_state(7).keys()


def test_a_damaged_file_of_a_cache_is_to_be_deleted(tmp_path: Path, served: Hub) -> None:
    served.repositories[REPOSITORY]["model.safetensors"] = save(random_state(7))[:-100]
    found = student(harness.Bench(experiment(tmp_path, IMAGENET), tmp_path).fetch_weights())
    with pytest.raises(
        ValueError, match=r"is cut short\. Fetch the file again\. Delete .*model.safetensors, and it is"
    ):
        load_weights(found)


def elsewhere(folder: Path, *settings: str) -> Experiment:
    return load(tiny.write(folder, data=DATA), settings, here=False)


@pytest.mark.parametrize("where", ["path: /nowhere/a.pth", "package: nowhere"])
def test_files_of_another_machine_beside_published_weights(
    tmp_path: Path, served: Hub, content: bytes, where: str
) -> None:
    served_at = harness.Bench(experiment(tmp_path, IMAGENET), tmp_path).fetch_weights()
    given = "pairs.0.teacher.encoder_weights={%s}"
    with pytest.raises(ValueError, match=r"pairs.0.teacher.encoder_weights: the file of .*nowhere.* give its sha256"):
        _ = harness.Bench(elsewhere(tmp_path, IMAGENET, given % where), tmp_path).experiment
    pinned = elsewhere(tmp_path, IMAGENET, given % f"{where}, sha256: {'a' * 64}")
    assert student(harness.Bench(pinned, tmp_path).experiment) == student(served_at)


def test_a_pinned_name_is_read_without_its_file(tmp_path: Path, served: Hub) -> None:
    """The digest says what the runs are called; whoever trains needs the file."""
    pinned = f"pairs.0.student.encoder_weights={{tag: imagenet, sha256: {'a' * 64}}}"
    bench = harness.Bench(experiment(tmp_path, pinned), tmp_path)
    assert ids(bench.experiment) == [run.run_id for run in bench.runs()] == list(bench.states())
    assert served.asked == []
    for use in (lambda b: b.fetch_weights(fetch=False), lambda b: b.require_ready(b.runs())):
        with pytest.raises(ValueError, match="which is not on this machine"):
            use(harness.Bench(experiment(tmp_path, pinned), tmp_path))


def test_a_row_says_where_its_weights_are_from(tmp_path: Path, served: Hub) -> None:
    found = harness.Bench(experiment(tmp_path, IMAGENET, "train.steps=2", "train.eval_every=2"), tmp_path)
    run = next(r for r in outline(found.fetch_weights()) if r.role == "student" and r.method.name == "none")
    assert Run.model_validate_json(run.model_dump_json()).run_id == run.run_id
    assert tiny.in_process(run, tmp_path / "tiny") == "ok"
    row = tiny.measured(tmp_path / "tiny", ["student_network"])[run.run_id]
    network = json.loads(row["student_network"])["encoder_weights"]
    assert network["source"]["licence"] == "apache-2.0" and network["source"]["revision"] == COMMIT
    # Where they lie on this machine is nobody else's business, and no help to him: the source is.
    described = tiny.measured(tmp_path / "tiny", ["student_network", "teacher_network", "spec"])[run.run_id]
    assert not [name for name, text in described.items() if str(tmp_path / "hub") in text]
    (written,) = of_networks([Run.model_validate_json(described["spec"]).network])
    assert written.known and load_weights(written).keys() == random_state(7).keys()
    given = run.model_copy(update={"checkpoint": run.network.encoder_weights})  # as a teacher from a repository has it
    assert str(tmp_path / "hub") in given.model_dump_json() and str(tmp_path / "hub") not in str(_described(given))
    # Whoever reads rows only need not have the weights, nor torch.
    unknown = experiment(tmp_path, IMAGENET, "train.steps=2", "train.eval_every=2")
    assert student(with_digests(unknown, tmp_path / "tiny")).sha256 == student(found.experiment).sha256
    other = experiment(tmp_path, "pairs.0.student.encoder_weights=lamb", "train.steps=2", "train.eval_every=2")
    assert student(with_digests(other, tmp_path / "tiny")).sha256 is None


SOURCE = {"kind": "hub", "name": "smp-hub/resnet18.imagenet", "file": "model.safetensors"}


def test_a_digest_of_other_weights_is_not_taken(tmp_path: Path) -> None:
    def student_of(text: str) -> Any:
        return load(tiny.write(tmp_path, data=DATA), [f"pairs.0.student={text}"], here=False).pairs[0].student

    def digest(text: str, seen: dict[str, Any]) -> str | None:
        weights = _digested(student_of(text), seen).encoder_weights
        assert weights is not None
        return weights.sha256

    there = {"path": "/x/a.pth", "sha256": "a" * 64}
    seen = {"architecture": "fpn", "encoder": "resnet18", "encoder_weights": there}
    fpn = "{architecture: fpn, encoder: resnet18, encoder_weights: %s}"
    assert digest(fpn % "{path: /y/a.pth}", seen) == "a" * 64
    assert digest(fpn % "{path: /y/b.pth}", seen) is None
    folder = seen | {"encoder_weights": there | {"path": "/x/mine/model.safetensors"}}
    assert digest(fpn % "{path: /y/mine}", folder) == "a" * 64 and digest(fpn % "{path: /y/other}", folder) is None
    assert digest(fpn.replace("fpn", "unet") % "{path: /y/a.pth}", seen) is None
    tagged = seen | {"encoder_weights": there | {"tag": "imagenet", "source": SOURCE}}
    assert digest(fpn % "{tag: imagenet}", tagged) == "a" * 64
    assert digest(fpn.replace("fpn", "fcn-torchvision").replace("18", "50") % "{tag: imagenet}", tagged) is None
    fifty = tagged | {"encoder": "resnet50"}
    assert digest(fpn.replace("fpn", "fcn-torchvision").replace("18", "50") % "{tag: imagenet}", fifty) is None
