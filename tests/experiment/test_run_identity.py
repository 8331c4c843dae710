"""What makes a run that run: what its run_id covers and what it does not."""

import json

import pytest
import yaml

from harness.experiment.method import Method, method_entry
from harness.experiment.plan import plan, timing_runs
from harness.experiment.signatures import table
from harness.experiment.spec import Protocol, Run
from harness.results.store import run_of
from tests.support.base import BASE, load


def ids(experiment):
    return [run.run_id for run in plan(experiment)]


def test_run_ids_do_not_change_between_versions(tmp_path):
    """If this fails, every finished run of every user is run again: raise PROTOCOL_VERSION, or keep the identity."""
    experiment = load(tmp_path)
    kd = Method(name="kd", parameters={"weight": 2.0})  # the tables' own defaults may change
    data = experiment.data.model_copy(update={"parameters": {"size": 64}})
    fixed = experiment.model_copy(update={"data": data, "methods": (Method(name="none"), kd), "seeds": (3,)})
    assert ids(fixed) == ["1176184f833e8517", "f916263f8637f8f5", "c75ee8ef66cd1ab2"]
    earlier = fixed.model_copy(update={"protocol": Protocol(version="1.1")})
    assert ids(earlier) == ["46e62683d9f5a2ea", "428bf3f686aaed49", "29eddda96fe72bff"]


def test_a_row_of_an_earlier_version_names_its_run(tmp_path):
    """Until 1.1 the version was a column only, and no key of the experiment."""
    run = plan(load(tmp_path, BASE, "protocol.version=1.1"))[1]
    spec = run.model_dump(mode="json")
    del spec["protocol"]["version"]
    row = {"run_id": run.run_id, "protocol_version": "1.1", "spec": json.dumps(spec)}
    assert run_of(tmp_path, row) == run and run_of(tmp_path, row).run_id == run.run_id


FIRST = "{w_re: 5, w_str: 0.9, w_sta: 1.15, w_adv: 0.01}"
"""The weights that were the defaults of `sstkd` at first: given by name they are the same run."""


def test_methods_at_their_defaults_keep_their_runs(tmp_path):
    """Parameters that a method or a dataset got after the first rows change no run_id at their defaults."""
    methods = {
        "skd": "26881a6f18a790de",
        "ifvd": "bde5440f8e724275",
        "cirkd": "c668327ab9484a91",
        "af-dcd": "8ba4906bacab7adf",
        f"{{sstkd: {FIRST}}}": "18b0749b64bc70a1",
        f"[kd, sstkd: {FIRST}]": "d9573ca8885f740d",
    }
    changes = f"methods=[none, {', '.join(methods)}]", "seeds=[1]", 'protocol.version="1.1"'
    experiment = load(tmp_path, BASE, *changes)
    assert ids(experiment) == ["61ef2e348be8b3ee", "9c9bec81a1bc784c", *methods.values()]


def of(entry):
    return entry.constants.get("added", ())


def test_added_parameters_count_when_they_are_set(tmp_path):
    changes = [
        ("sstkd", "reduction=positions"),
        ("sstkd", "critic_input=tanh"),
        ("sstkd", "embedding_weights=head.safetensors"),
        ("sstkd", f"embedding_sha256={'a' * 64}"),
        ("skd", "critic_input=tanh"),
        ("ifvd", "critic_input=tanh"),
        ("cirkd", "auto_pool=true"),
        ("af-dcd", "enhanced_projector=true"),
    ]
    added = {(name, key) for name, entry in table("harness.distillers", "METHODS").items() for key in of(entry)}
    assert added == {(method, change.partition("=")[0]) for method, change in changes}
    for method, change in changes:
        base = f"methods=[none, {{{method}: {{}}}}]"
        key, value = change.split("=")
        before = ids(load(tmp_path, BASE, base))
        default = method_entry(method).parameters.model_fields[key].default
        written = json.dumps(default)
        assert ids(load(tmp_path, BASE, base, f"methods.1.{method}.{key}={written}")) == before, (method, key)
        after = ids(load(tmp_path, BASE, base, f"methods.1.{method}.{key}={value}"))
        assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, True, False], (method, key)


def test_a_timing_run_is_the_same_whatever_its_line_is_called(tmp_path):
    """The label leaves out what is at its default, and a default may change."""
    run = timing_runs(load(tmp_path))[1]
    assert run.trial.method == "kd(weight=2.0)"
    again = run.model_copy(update={"trial": run.trial.model_copy(update={"method": "kd"})})
    other = run.model_copy(update={"trial": run.trial.model_copy(update={"number": 1})})
    assert again.run_id == run.run_id != other.run_id


def test_a_run_survives_the_way_to_a_worker(tmp_path):
    for run in plan(load(tmp_path)):
        again = Run.model_validate_json(run.model_dump_json())
        assert again == run and again.run_id == run.run_id


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "pairs.0.name=other",
        "resources={workers: 2, cpus_per_worker: 3, gpus_per_worker: 1, address: auto}",
        "train.checkpoint_every=1",
        "train.gradients_every=1",
        "train.optimizer.lr=0.01",  # the default
        "train.optimizer.momentum=0.9",
        "train.augment={crop_hw: null, saturation: 0, hue: 0, scale_step: 0, class_cap: 1}",
        "train.evaluation={scales: [1.0], flip: false}",
        "train.normalize=dataset",
        "train.loss=cross-entropy",
        "train.loss=[{name: cross-entropy, weight: 1, label_smoothing: 0}]",
        "train.loss=null",
        "train.ema=null",
        "train.optimizer={name: sgd, encoder_lr_factor: 1}",
        "data.parameters.size=64",
        "data.parameters.equalize=true",
        "methods.1.kd.temperature=1",
    ],
)
def test_what_does_not_change_the_numbers_does_not_change_the_run(tmp_path, override):
    assert ids(load(tmp_path, BASE, override)) == ids(load(tmp_path))


def test_the_order_of_keys_does_not_change_the_run(tmp_path):
    def turned(value):
        if isinstance(value, dict):
            return {k: turned(v) for k, v in reversed(value.items())}
        return [turned(v) for v in value] if isinstance(value, list) else value

    text = BASE.replace("resnet18", "resnet18\n      parameters: {b: {y: 1, x: 2}, a: [3, 4]}")
    data = yaml.safe_load(text)
    assert ids(load(tmp_path, yaml.safe_dump(turned(data), sort_keys=False))) == ids(load(tmp_path, text))


TEACHER, NONE, KD = (0,), (1, 3), (2, 4)
ALL = (*TEACHER, *NONE, *KD)
CHANGES = {
    "protocol.absent_policy=zero": ALL,
    'protocol.version="1.1"': ALL,
    "data.parameters.size=96": ALL,
    "data.parameters.equalize=false": ALL,
    "train.auxiliary_weight=0.2": ALL,
    "pairs.0.teacher.encoder=resnet50": ALL,
    "pairs.0.teacher.seed=1": ALL,
    "pairs.0.teacher.steps=5": ALL,
    "pairs.0.teacher.lr=0.5": ALL,
    "pairs.0.teacher.parameters={decoder_dropout: 0.0}": ALL,
    "pairs.0.student.encoder=resnet50": (*NONE, *KD),
    "pairs.0.student.architecture=unet": (*NONE, *KD),
    "pairs.0.student.parameters={path: a}": (*NONE, *KD),
    "train.steps=5": ALL,
    "train.batch_size=7": ALL,
    "train.optimizer.name=adamw": ALL,
    "train.optimizer.lr=0.02": ALL,
    "train.optimizer.weight_decay=0": ALL,
    "train.optimizer.momentum=0.8": ALL,
    "train.optimizer.betas=[0.9, 0.99]": ALL,
    "train.schedule.name=cosine": ALL,
    "train.schedule.power=1": ALL,
    "train.schedule.warmup_steps=1": ALL,
    "train.optimizer.encoder_lr_factor=0.1": ALL,
    "train.optimizer={name: AdamW, lr: 0.01}": ALL,
    "train.schedule={name: StepLR, step_size: 2}": ALL,
    "train.loss=dice": ALL,
    "train.loss={name: cross-entropy, label_smoothing: 0.1}": ALL,
    "train.loss=[cross-entropy, focal]": ALL,
    "train.ema=0.99": ALL,
    "train.augment.crop_hw=[32, 32]": ALL,
    "train.augment.scale=[0.5, 2.0]": ALL,
    "train.augment.flip=false": ALL,
    "train.augment.jitter=0.1": ALL,
    "train.augment.saturation=0.2": ALL,
    "train.augment.hue=10": ALL,
    "train.augment.scale_step=0.1": ALL,
    "train.augment.class_cap=0.75": ALL,
    "train.normalize=encoder": ALL,
    "train.evaluation.window_hw=[32, 32]": ALL,
    "train.evaluation={window_hw: [32, 32], stride_hw: [16, 16]}": ALL,
    "train.evaluation.scales=[0.5, 1.0]": ALL,
    "train.evaluation.flip=true": ALL,
    "train.evaluation.boundary=2": ALL,
    "train.evaluation.per_image=true": ALL,
    "train.precision=bf16": ALL,
    "train.clip_norm=1": ALL,
    "train.accumulate=2": ALL,
    "train.channels_last=true": ALL,
    "train.compile=true": ALL,
    "train.deterministic=true": ALL,
    "train.teacher_fast=true": ALL,
    "train.sync_batchnorm=false": ALL,
    "train.eval_every=2": ALL,
    "methods.1.kd.weight=2.5": KD,
    "methods.1.kd.temperature=4": KD,
    "seeds=[2, 3]": (*NONE, *KD),
}


@pytest.mark.parametrize("override", CHANGES)
def test_what_changes_the_numbers_changes_the_run(tmp_path, override):
    before, after = ids(load(tmp_path)), ids(load(tmp_path, BASE, override))
    assert len(before) == len(after) == 5
    changed = {i for i in range(5) if before[i] != after[i]}
    assert changed == set(CHANGES[override])


def test_every_setting_of_the_recipe_is_covered_above(tmp_path):
    """A new key of `train` is either in CHANGES or said to change nothing."""
    train = load(tmp_path).train
    keys = {f"train.{k}" for k in type(train).model_fields} - {
        f"train.{key}" for key in ("checkpoint_every", "gradients_every", "eval_batch_size")
    }
    covered = {key.split("=")[0] for key in CHANGES}
    covered |= {"train.evaluation.stride_hw"}  # given with its window
    covered |= {"train.optimizer.parameters", "train.schedule.parameters"}  # filled in from the keys beside a name
    for key in keys:
        inner = getattr(train, key.partition(".")[2])
        names = [f"{key}.{k}" for k in type(inner).model_fields] if hasattr(type(inner), "model_fields") else [key]
        assert set(names) <= covered, names


def test_weights_count_by_content_not_by_place(tmp_path):
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(b"x")

    def with_weights(key, path, digest):
        weights = f"{key}={{path: {tmp_path}/{path}, sha256: {digest * 64}}}"
        return ids(load(tmp_path, BASE, weights))

    for key in ("pairs.0.student.encoder_weights", "pairs.0.teacher.encoder_weights", "pairs.0.teacher.checkpoint"):
        first = with_weights(key, "a.pt", "a")
        assert first == with_weights(key, "b.pt", "a")
        assert first[1:] != with_weights(key, "a.pt", "b")[1:]
        assert first != ids(load(tmp_path))


def test_the_root_of_a_dataset_is_a_place(tmp_path):
    (tmp_path / "data").mkdir()
    assert ids(load(tmp_path, BASE, f"data.root={tmp_path}/data")) == ids(load(tmp_path))
