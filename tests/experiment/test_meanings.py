"""What words of other projects are answered with: each entry leads to something that exists."""

import re

import pytest

from harness.cli.app import COMMANDS
from harness.experiment import signatures
from harness.experiment.load import _models_in, load, validate
from harness.experiment.meanings import MEANINGS, nearest
from harness.experiment.method import method_entry
from harness.experiment.network_rules import ARCHITECTURES
from harness.experiment.recipe import LOSSES
from harness.experiment.spec import Experiment
from tests.support.tiny import write

METHODS = signatures.table("harness.distillers", "METHODS")
DATASETS = signatures.table("harness.datasets", "DATASETS")


def key_paths(model, before=""):
    """Every key path of an experiment file; items of lists are at 0."""
    for name, field in model.model_fields.items():
        yield before + name
        for inner in _models_in(field.annotation):
            if "parameters" not in inner.model_fields or inner.__name__ not in ("Method",):
                yield from key_paths(inner, f"{before}{name}." + ("0." if "tuple" in str(field.annotation) else ""))


PATHS = set(key_paths(Experiment))
NAMES = {
    *(METHODS | DATASETS),
    *ARCHITECTURES,
    *LOSSES,
    *(command.__name__ for command in COMMANDS),
    *(path.rpartition(".")[2] for path in PATHS),
    *(parameter for entry in METHODS.values() for parameter in entry.parameters.model_fields),
}


@pytest.mark.parametrize("meaning", MEANINGS, ids=lambda m: m.words.split()[0])
def test_every_answer_exists(meaning):
    assert meaning.words and meaning.here
    for here in meaning.here.split():
        assert here in (PATHS if "." in here else NAMES)
    assert all(re.fullmatch(r"[a-z0-9_+]+", word) for word in meaning.words.split())


def test_every_word_is_answered_somewhere():
    """A word that is in two rows leads to different vocabularies, so that the second is reached."""
    for meaning in MEANINGS:
        targets = meaning.here.split()
        plain = [here for here in targets if "." not in here]
        for word in meaning.words.split():
            asked = nearest(word, [plain[0]] if plain else [], keys=not plain)
            assert (word in plain) or f"'{targets[0]}'" in asked, word


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("cwd-feature", "cwd"),
        ("Channel-Wise", "cwd"),
        ("pixel-wise", "kd"),
        ("vanilla", "kd"),
        ("hinton", "kd"),
        ("mimic", "feature-kd"),
        ("baseline", "none"),
        ("attention transfer", "at"),
        ("cdw", "cwd"),
    ],
)
def test_methods(name, answer):
    with pytest.raises(ValueError, match=rf"unknown method '{name}'\. Did you mean '{answer}'\?"):
        method_entry(name)


@pytest.mark.parametrize(
    ("method", "given", "answer"),
    [
        ("cwd", "temperature", "tau"),
        ("dist", "T", "tau"),
        ("kd", "tau", "temperature"),
        ("kd", "lambda", "weight"),
        ("kd", "alpha", "weight"),
        ("kd", "loss_weight", "weight"),
        ("cwd", "loss_weight", "logits"),
        ("at", "lambda_kd", "kd"),
        ("kd", "lambda_kd", "weight"),
        ("at", "layers", "taps"),
        ("fitnet", "layers", "tap"),
        ("kd", "lr", "train.optimizer.lr"),
        ("kd", "wieght", "weight"),
    ],
)
def test_parameters_of_methods(method, given, answer):
    said = []
    validate(METHODS[method].parameters, {given: 1.0}, (), lambda at, message: said.append(message))
    assert said[0].startswith(f"unknown key. Did you mean '{answer}'?")


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("train.lr", "train.optimizer.lr"),
        ("lr", "train.optimizer.lr"),
        ("epochs", "train.steps"),
        ("train.epochs", "steps"),
        ("batch_size", "train.batch_size"),
        ("train.iterations", "steps"),
        ("max_iters", "train.steps"),
        ("train.crop_size", "train.augment.crop_hw"),
        ("train.augment.crop_size", "crop_hw"),
        ("num_workers", "resources.loader_workers"),
        ("resources.num_workers", "loader_workers"),
        ("train.optimizer.type", "name"),
        ("train.momentum", "train.optimizer.momentum"),
        ("train.fp16", "precision"),
        ("data.data_root", "root"),
        ("pairs.0.student.backbone", "encoder"),
        ("pairs.0.student.pretrained", "encoder_weights"),
        ("pairs.0.teacher.ckpt", "checkpoint"),
        ("teacher_ckpt", "pairs.0.teacher.checkpoint"),
        ("distiller", "methods"),
        ("work_dir", "name"),
    ],
)
def test_keys_of_a_file(tmp_path, key, answer):
    with pytest.raises(ValueError) as caught:
        load(write(tmp_path), [f"{key}=1"])
    assert f"unknown key. Did you mean '{answer}'?" in str(caught.value)


def test_an_epoch_is_told_in_steps(tmp_path):
    with pytest.raises(
        ValueError, match=r"Did you mean 'steps'\? \(an epoch is \(images of train\) / batch_size steps\)"
    ):
        load(write(tmp_path), ["train.epochs=1"])


def test_a_name_that_is_allowed_is_not_answered_by_another():
    assert nearest("Seed", ["seed", "seeds"]) == " Did you mean 'seed'?"
    assert nearest("lr", ["weight", "tap"]) == "" and nearest("x" * 200, ["x"]) == ""
