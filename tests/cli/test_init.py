"""`init` and `distill`: experiment files from answers; and the line of `run` that says where the networks are."""

import os
import pty
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from harness.cli.init import _complete
from harness.cli.run import say_where_networks_are
from harness.experiment.load import load
from harness.results import paths, store
from harness.results.find import find_finished
from tests.support.commands import ROOT, call, refused
from tests.support.users import as_another_user, folder_of_all

GIVEN = ("--teacher", "unet:tu-resnet18d", "--student", "unet:tu-resnet10t")


@pytest.fixture
def folder(tmp_path):
    """A small dataset of the kind `folder`, with a space and an umlaut in its path."""
    from harness.datasets.folder import class_table

    root, rng = tmp_path / "my dätä", np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir(parents=True)
    for i in range(10):
        Image.fromarray(rng.integers(0, 256, (70, 100, 3), np.uint8)).save(root / "images" / f"{i}.png")
        Image.fromarray(rng.integers(0, 2, (70, 100), np.uint8)).save(root / "masks" / f"{i}.png")
    (root / "classes.yaml").write_text(class_table(("soil", "crop"), ((0, 0, 0), (0, 255, 0))))
    return root


@pytest.mark.torch
def test_the_file_of_a_folder_passes_the_check(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SSTKD_BENCH_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "mine.yaml"
    assert "check" in call("init", file, "--data", folder, *GIVEN, "--methods", "cwd").stdout
    experiment = load(file)
    assert experiment.name == "mine" and experiment.data.name == "folder"
    assert [m.label for m in experiment.methods] == ["none", "kd", "cwd"]
    assert experiment.train.augment.crop_hw == (64, 96) and experiment.resources.gpus_per_worker == 0
    assert file.read_text().count("#") > 10
    text = call("check", file, "--no-measure", "--results", tmp_path / "r").stdout
    assert "16 runs, 16 pending" in text


@pytest.mark.parametrize(
    ("teacher", "network"),
    [
        ("deeplabv3:tu-resnet101", ("deeplabv3", "tu-resnet101", None)),
        ("tests.support.networks:plain", None),
        ("unet:tu-resnet18@FILE", ("unet", "tu-resnet18", "FILE")),
        ("unet:tu-resnet18@hf:org/name@main", ("unet", "tu-resnet18", "hf:org/name@main")),
    ],
)
def test_forms_of_a_teacher(tmp_path, teacher, network):
    weights = tmp_path / "w: #1.pth"
    weights.write_bytes(b"x")
    file, teacher = tmp_path / "a b.yaml", teacher.replace("FILE", str(weights))
    call("init", file, "--data", "texmosaic", "--teacher", teacher, "--student", "unet:tu-resnet10t", "--gpus", 4)
    experiment = load(file)
    found = experiment.pairs[0].teacher
    assert experiment.name == "a-b" and experiment.resources.concurrent == 4
    if network is None:
        assert found.architecture == teacher and "name its taps" in file.read_text()
    else:
        checkpoint = None if found.checkpoint is None else found.checkpoint.named
        expected = network[2] and network[2].replace("FILE", str(weights))
        assert (found.architecture, found.encoder, checkpoint) == (*network[:2], expected)


def test_a_file_that_is_there_is_kept(tmp_path):
    file = tmp_path / "e.yaml"
    file.write_text("mine")
    assert "is there already; give another name, or --force" in refused("init", file, "--data", "texmosaic", *GIVEN)
    assert file.read_text() == "mine"
    call("init", file, "--data", "texmosaic", *GIVEN, "--force")
    assert load(file).data.name == "texmosaic"
    assert "is a folder" in refused("init", tmp_path, "--data", "texmosaic", *GIVEN)
    assert "there is no folder" in refused("init", tmp_path / "no" / "e.yaml", "--data", "texmosaic", *GIVEN)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "/no/such"}, "no such folder, and no dataset of this name"),
        ({"data": "texmosiac"}, "Did you mean 'texmosaic'?"),
        ({"data": "cityscapes"}, "cityscapes:FOLDER"),
        ({"data": "cityscapes:/no/such"}, "there is no folder /no/such"),
        ({"data": "x\x1b[2J"}, "no such folder"),
        ({"teacher": "deplabv3:tu-resnet18"}, "Did you mean 'deeplabv3'?"),
        ({"teacher": "unet"}, "its encoder is missing"),
        ({"teacher": "unet:../../x"}, "is no encoder's name"),
        ({"teacher": "no.such:Net"}, "no.such"),
        ({"teacher": "os:system"}, "Python's own library"),
        ({"teacher": "unet:tu-resnet18@/no/file.pth"}, "there is no file /no/file.pth"),
        ({"teacher": __file__}, "which network is it of?"),
        ({"student": "resnet18"}, "unknown architecture"),
        ({"methods": "cwd,,kd"}, "names separated by commas"),
        ({"methods": "cwdd"}, "Did you mean 'cwd'?"),
        ({"methods": "kd: {temperature: .nan}"}, "write it as package.module:Class"),
        ({"gpus": "-1"}, "allowed are 0 to"),
        ({"gpus": "1000000000"}, "allowed are 0 to"),
        ({"data": ""}, "no such folder, and no dataset of this name"),
        (
            {"data": "${NO_SUCH_VARIABLE}/x"},
            "e.yaml:5: data.root: the environment variable NO_SUCH_VARIABLE is not set",
        ),
        ({"data": "cityscape:photos"}, "Did you mean 'cityscapes'?"),
        ({"data": "mypkg.data:Fields"}, "no package or module 'mypkg'"),
        ({"data": "texmosaic:photos"}, "texmosaic needs no folder; write texmosaic"),
        ({"teacher": "UNet:resnet18"}, "Did you mean 'unet'?"),
        ({"teacher": "unett:resnet18"}, "Did you mean 'unet'?"),
        ({"teacher": "unet:"}, "write unet:tu-resnet18 or another"),
        ({"student": "unet:resnet18@x.pth"}, "only a teacher has weights after an @"),
    ],
    ids=str,
)
def test_wrong_answers_are_named_and_nothing_is_written(tmp_path, changes, words):
    answers = {"data": "texmosaic", "teacher": "unet:tu-resnet18d", "student": "unet:tu-resnet10t", **changes}
    file = tmp_path / "e.yaml"
    text = refused("init", file, *(word for name, value in answers.items() for word in (f"--{name}", value)))
    # The text is tried in a temporary file, which nobody knows; what is wrong is said of the file that was asked for.
    assert words in text and "\x1b" not in text and "experiment.yaml" not in text
    assert not file.exists()


@pytest.mark.parametrize(
    "name", ["1e3", "0x1F", "0o17", "null", "~", ".5", "+1", "2024-01-31", "on", "1_000", "'", "a: b #c"]
)
def test_no_name_of_a_folder_or_file_is_taken_for_a_number(folder, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    folder.rename(tmp_path / name)
    call("init", f"{name}.yaml", "--data", name, *GIVEN)
    experiment = load(tmp_path / f"{name}.yaml")
    assert experiment.data.root == str(tmp_path / name) and experiment.train.augment.crop_hw == (64, 96)


def test_the_crop_is_that_of_the_images_however_their_folder_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDS", str(tmp_path))
    for i, data in enumerate((f"folder:{folder}", "${FIELDS}/" + folder.name)):
        call("init", tmp_path / f"{i}.yaml", "--data", data, *GIVEN)
        assert load(tmp_path / f"{i}.yaml").train.augment.crop_hw == (64, 96)


@pytest.mark.parametrize(("layout", "images"), [("cityscapes", "leftImg8bit/train/aachen"), ("voc", "JPEGImages")])
def test_a_folder_like_a_published_one_is_read_in_its_layout(tmp_path, layout, images):
    (tmp_path / "data" / images).mkdir(parents=True)
    Image.new("RGB", (100, 70)).save(tmp_path / "data" / images / "a.png")
    for i, data in enumerate((tmp_path / "data", f"folder:{tmp_path / 'data'}")):
        call("init", tmp_path / f"{i}.yaml", "--data", data, *GIVEN)
        experiment = load(tmp_path / f"{i}.yaml")
        assert experiment.data.parameters["layout"] == layout and experiment.train.augment.crop_hw == (64, 96)


@pytest.mark.parametrize("command", [("quickstart",), ("distill", "--data", "texmosaic", *GIVEN)])
def test_a_results_folder_that_cannot_be_made_is_said_before_anything_is_loaded(command):
    def work():
        os.chdir(folder)
        for results, words in (("results", "you cannot write into"), ("file/r", "file is no folder")):
            text = refused(*command, "--results", results)
            assert words in text and "give a folder of your own: --results" in text
        assert "torch" not in text and not (folder / "experiment.yaml").exists()

    with folder_of_all() as folder:
        folder = folder / "unwritable"
        folder.mkdir()
        (folder / "file").write_text("x")
        folder.chmod(0o555)
        try:
            as_another_user(work)
        finally:
            folder.chmod(0o777)


def test_a_wrong_answer_is_asked_for_again(monkeypatch, capsys):
    answers = iter(
        ["nosuch", "texmosaic", "unett:resnet18", "unet:tu-resnet18d", "@", "unet:tu-resnet10t", ",", "kd", -1, 0]
    )
    monkeypatch.setattr("harness.cli.init.typer.prompt", lambda *words, **more: next(answers))
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    found = _complete({})
    assert (found.data, found.teacher, found.student, found.methods, found.gpus) == (
        *("texmosaic", "unet:tu-resnet18d", "unet:tu-resnet10t", "kd"),
        0,
    )
    assert capsys.readouterr().err.count("error: --") == 5


def test_without_a_terminal_nothing_is_asked(tmp_path):
    text = refused("init", tmp_path / "e.yaml", "--data", "texmosaic")
    assert "--teacher, --student: missing; this is not a terminal" in text


def test_on_a_terminal_five_questions_are_asked(tmp_path):
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "harness.cli", "init", str(tmp_path / "e.yaml"), "--gpus", "2"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT) as process:
        with open(ours, "wb", buffering=0, closefd=False) as terminal:
            terminal.write(b"\n\nunet:tu-resnet10t\ncwd\n")
        assert process.wait() == 0
    experiment = load(tmp_path / "e.yaml")
    assert experiment.data.name == "texmosaic" and experiment.pairs[0].student.encoder == "tu-resnet10t"
    assert [m.label for m in experiment.methods] == ["none", "kd", "cwd"] and experiment.resources.concurrent == 2


def test_distill_writes_the_file_runs_it_and_is_resumed(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("harness.cli.init.run", lambda *words, **more: calls.append((words, more)))
    file = tmp_path / "e.yaml"
    words = ("distill", "--data", "texmosaic", *GIVEN, "--file", file, "--set", "train.steps=20", "--results", tmp_path)
    assert call(*words).stdout == f"{file}: written\n"
    assert call(*words).stdout == ""
    assert calls == [((file, ["train.steps=20"], tmp_path), {"as_json": False})] * 2
    said = refused(*words, "--methods", "cwd")
    assert f"If you have edited it:\n    sstkd-bench run {file}\n       --force writes it anew and loses" in said
    assert "train.bogus" in refused(*words, "--set", "train.bogus=1")
    call(*words, "--methods", "cwd", "--force")
    assert [m.label for m in load(file).methods] == ["none", "kd", "cwd"]


# --- Where the networks are --------------------------------------------------------------------------------------------


def test_run_says_where_the_networks_are_and_how_to_use_one(tmp_path, capsys):
    from harness.bench import Bench

    results = tmp_path / "my results"
    shutil.copytree(ROOT / "results" / "examples" / "quickstart", results / "quickstart")
    wanted = Bench(load(ROOT / "experiments" / "quickstart.yaml"), results)
    say_where_networks_are(wanted)
    assert capsys.readouterr().out == ""
    run = wanted.runs()[-1]
    path = paths.weights_path(wanted.directory, run.run_id)
    path.parent.mkdir()
    path.write_bytes(b"")
    say_where_networks_are(wanted)
    said = capsys.readouterr().out
    assert said.splitlines() == [
        f"networks: {path.parent}; to use one:",
        f"    sstkd-bench predict '{wanted.directory}' {run.method.name}/{run.seed} --images DIR --to DIR",
        "or in Python:",
        f"    harness.load_student('{run.method.name}/{run.seed}', '{wanted.directory}')",
    ]
    assert find_finished(wanted.directory, f"{run.method.name}/{run.seed}")[1]["run_id"] == run.run_id


def test_a_trained_network_is_a_teacher(tmp_path):
    directory = tmp_path / "quickstart"
    shutil.copytree(ROOT / "results" / "examples" / "quickstart", directory)
    run_id = find_finished(directory, "teacher/0")[1]["run_id"]
    path = paths.weights_path(directory, run_id)
    path.parent.mkdir()
    path.write_bytes(b"x")
    file = tmp_path / "e.yaml"
    call("init", file, "--data", "texmosaic", "--teacher", path, "--student", "unet:tu-resnet10t")
    teacher = load(file).pairs[0].teacher
    assert (teacher.architecture, teacher.encoder) == ("unet", "tu-resnet18d") and teacher.parameters[
        "encoder_depth"
    ] == 3
    assert teacher.checkpoint.path == str(path)
    assert load(file).train.normalize == "dataset" and "normalize" not in file.read_text()


def test_a_teacher_sees_images_normalised_as_it_was_trained(tmp_path, monkeypatch):
    directory = tmp_path / "quickstart"
    shutil.copytree(ROOT / "results" / "examples" / "quickstart", directory)
    run_id = find_finished(directory, "teacher/0")[1]["run_id"]
    path = paths.weights_path(directory, run_id)
    path.parent.mkdir()
    path.write_bytes(b"x")
    made = store.run_of(directory, store.read_run(directory, run_id))
    other = made.model_copy(update={"train": made.train.model_copy(update={"normalize": "bgr-mean"})})
    monkeypatch.setattr("harness.results.store.run_of", lambda *_: other)
    file = tmp_path / "e.yaml"
    call("init", file, "--data", "texmosaic", "--teacher", path, "--student", "unet:tu-resnet10t")
    assert load(file).train.normalize == "bgr-mean"
