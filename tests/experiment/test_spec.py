"""The experiment file: what is read, what is refused and how it is said."""

import copy
import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from harness.experiment import load as specfile
from harness.experiment.method import Method
from harness.experiment.plan import outline, plan
from harness.experiment.schema import json_schema
from harness.experiment.spec import Experiment
from tests.support.base import BASE, load

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def said(tmp_path, text=BASE, *overrides):
    """The lines of the error, without the folder."""
    with pytest.raises(ValueError) as error:
        load(tmp_path, text, *overrides)
    return str(error.value).replace(f"{tmp_path}/", "").splitlines()


def test_a_file_is_read_with_every_default_filled_in(tmp_path):
    experiment = load(tmp_path)
    assert experiment.methods == (
        Method(name="none"),
        Method(name="kd", parameters={"weight": 2.0, "temperature": 1.0, "convention": "canonical"}),
    )
    assert experiment.data.parameters["size"] == 64
    assert experiment.data.parameters.keys() > {"size", "train", "dev", "val"}
    assert (experiment.train.optimizer.lr, experiment.seeds, experiment.overrides) == (0.01, (0, 1), ())
    with pytest.raises(ValidationError):
        experiment.name = "other"


@pytest.mark.parametrize(
    "written", ["kd", "kd: {weight: 1}", "kd:", "{name: kd}", "{name: kd, parameters: {temperature: 1.0, weight: 1}}"]
)
def test_the_forms_of_a_method_are_one(tmp_path, written):
    experiment = load(tmp_path, BASE.replace("kd: {weight: 2}", written))
    assert experiment.methods[1] == Method(
        name="kd", parameters={"weight": 1.0, "temperature": 1.0, "convention": "canonical"}
    )


MISTAKES = {
    # (what is replaced, by what): the messages
    ("  steps: 4", "  stepz: 4"): [
        "e.yaml:9: train.steps: this key is missing; it has no default",
        "e.yaml:10: train.stepz: unknown key. Did you mean 'steps'? Allowed: steps, batch_size, optimizer, ",
    ],
    ("seeds: [0, 1]\n", ""): ["e.yaml: seeds: this key is missing"],
    ("seeds:", "Seeds:"): [
        "e.yaml: seeds: this key is missing",
        "e.yaml:12: Seeds: unknown key. Did you mean 'seeds'? Allowed: name, protocol, data, pairs, train, budget, seeds, "
        "methods, controls, search, resources",
    ],
    ("      encoder: resnet18", "      encoder: resnet18\n      encoder_wieghts: 1"): [
        "e.yaml:9: pairs.0.student.encoder_wieghts: unknown key. Did you mean 'encoder_weights'? Allowed: architecture, encoder"
    ],
    ("  steps: 4", "  steps: four"): ['e.yaml:10: train.steps: Input should be a valid integer; given "four"'],
    ("  steps: 4", "  steps: 4.0"): ["e.yaml:10: train.steps: Input should be a valid integer; given 4.0"],
    ("  steps: 4", "  steps: true"): ["e.yaml:10: train.steps: Input should be a valid integer; given true"],
    ("  steps: 4", "  steps:"): ["e.yaml:10: train.steps: Input should be a valid integer; given null"],
    ("  steps: 4", "  steps: 0"): ["e.yaml:10: train.steps: Input should be greater than 0; given 0"],
    ("  steps: 4", "  steps: 4\n  augment: {flip: off}"): [
        'e.yaml:11: train.augment.flip: Input should be true or false; given "off"'
    ],
    ("  steps: 4", "  steps: 4\n  augment: {scale: [2, 1]}"): ["e.yaml:11: train.augment: scale is (low, high)"],
    ("  steps: 4", "  steps: 4\n  augment: {crop_hw: [32]}"): ["e.yaml:11: train.augment.crop_hw.1: "],
    ("  steps: 4", "  steps: 4\n  precision: fp61"): [
        "e.yaml:11: train.precision: Input should be 'fp32', 'tf32', 'bf16' or 'fp16'; given \"fp61\". Did you mean 'fp16'?"
    ],
    ("  steps: 4", "  steps: 4\n  accumulate: 4"): ["e.yaml:9: train: batch_size 6 is not a multiple of accumulate 4"],
    ("  steps: 4", "  steps: 4\n  optimizer: {lr: -1}"): [
        "e.yaml:11: train.optimizer.lr: Input should be greater than 0"
    ],
    ("  steps: 4", "  steps: 4\n  optimizer: {lr: .nan}"): [
        "e.yaml:11: train.optimizer.lr: .nan is not a finite number"
    ],
    ("  steps: 4", "  steps: 4\n  optimizer: {momentum: 1.0}"): [
        "e.yaml:11: train.optimizer.momentum: Input should be less than 1"
    ],
    ("[0, 1]", "[]"): ["e.yaml:12: seeds: The list should have at least 1 item"],
    ("[0, 1]", "3"): ["e.yaml:12: seeds: Input should be a list; given 3"],
    ("[0, 1]", "[0, -1]"): ["e.yaml:12: seeds.1: Input should be greater than or equal to 0; given -1"],
    ("[0, 1]", "[x]"): ['e.yaml:12: seeds.0: Input should be a valid integer; given "x"'],
    ("[0, 1]", "[9223372036854775808]"): ["e.yaml:12: seeds.0: Input should be less than 9223372036854775808"],
    ("[0, 1]", "[0, 1, 0]"): ["e.yaml:12: seeds.2: 0 is listed twice; list each entry once"],
    ("name: small", "name: ../up"): ["e.yaml:1: name: String should match pattern"],
    ("name: small", "name: 2026"): ["e.yaml:1: name: Input should be text (quote it); given 2026"],
    ("name: small", "name: " + "a" * 101): ["e.yaml:1: name: String should have at most 100 characters"],
    ("data: {name: texmosaic", "data: {name: texmosiac"): [
        "e.yaml:2: data.name: unknown dataset 'texmosiac'. Did you mean 'texmosaic'? Allowed: "
    ],
    ("{size: 64}", "{sise: 64}"): ["e.yaml:2: data.parameters.sise: unknown key. Did you mean 'size'? Allowed: "],
    ("{size: 64}", "{size: 64.5}"): ["e.yaml:2: data.parameters.size: Input should be a valid integer; given 64.5"],
    ("{size: 64}", "7"): ["e.yaml:2: data.parameters: Input should be a mapping (key: value); given 7"],
    ("  - kd:", "  - dk:"): [
        "e.yaml:15: methods.1: unknown method 'dk'. Did you mean 'kd'? Allowed: af-dcd, at, cirkd, cwd, "
        "dist, dsd, feature-kd, fitnet, freekd, ifvd, kd, kt, mgd, none, skd, sstkd"
    ],
    ("kd: {weight: 2}", "KD"): ["e.yaml:15: methods.1: unknown method 'KD'. Did you mean 'kd'?"],
    ("kd: {weight: 2}", "kd: {wieght: 2}"): [
        "e.yaml:15: methods.1.kd.wieght: unknown key. Did you mean 'weight'? Allowed: weight, temperature, convention"
    ],
    ("kd: {weight: 2}", "{name: kd, parameters: {wieght: 2}}"): [
        "e.yaml:15: methods.1.parameters.wieght: unknown key."
    ],
    ("kd: {weight: 2}", 'kd: {weight: "2"}'): [
        'e.yaml:15: methods.1.kd.weight: Input should be a valid number; given "2"'
    ],
    ("kd: {weight: 2}", "kd: 2"): ["e.yaml:15: methods.1.parameters: Input should be a mapping (key: value); given 2"],
    ("kd: {weight: 2}", "{kd: {}, cwd: {}}"): [
        "e.yaml:15: methods.1: one method is `name` or `{name: {parameter: value}}`"
    ],
    ("kd: {weight: 2}", "[kd, dk]"): ["e.yaml:15: methods.1.1: unknown method 'dk'. Did you mean 'kd'?"],
    ("kd: {weight: 2}", "[kd, {cwd: {tua: 1}}]"): [
        "e.yaml:15: methods.1.1.cwd.tua: unknown key. Did you mean 'tau'? Allowed: logits, feature, tau"
    ],
    ("kd: {weight: 2}", "[sstkd, {cwd: {tua: 1}}]"): ["e.yaml:15: methods.1.1.cwd.tua: unknown key."],
    ("kd: {weight: 2}", "{name: kd+cwd, parameters: {cwd.tua: 1}}"): [
        "e.yaml:15: methods.1.parameters.cwd.tua: unknown key. Did you mean 'tau'?"
    ],
    ("kd: {weight: 2}", "{name: kd+cwd, parameters: {tau: 1}}"): [
        "e.yaml:15: methods.1: tau is not a parameter of kd+cwd; write it as METHOD.NAME"
    ],
    ("kd: {weight: 2}", "[kd]"): ["e.yaml:15: methods.1: a sum is a list of two or more methods"],
    ("kd: {weight: 2}", "[kd+cwd, at]"): [
        "e.yaml:15: methods.1: a sum is a list of two or more methods, each by itself"
    ],
    ("kd: {weight: 2}", "[kd, [at, cwd]]"): ["e.yaml:15: methods.1: a sum is a list of two or more methods"],
    ("kd: {weight: 2}", "[kd, kd: {weight: 3}]"): ["e.yaml:15: methods.1: kd+kd: a sum has each method once"],
    ("kd: {weight: 2}", "[kd, none]"): ["e.yaml:15: methods.1: kd+none: `none` has no terms to add"],
    ("kd: {weight: 2}", "3"): ["e.yaml:15: methods.1: one method is `name` or"],
    ("kd: {weight: 2}", "none"): ["e.yaml:15: methods.1: none is listed twice; list each entry once"],
    ("kd: {weight: 2}", "nothing_here:X"): ["e.yaml:15: methods.1: nothing_here: there is no package or module"],
    ("kd: {weight: 2}", "math:X"): ["e.yaml:15: methods.1: math: 'math' has no Python source file"],
    ("  - none\n", ""): ["e.yaml:13: methods: the control 'none' is missing. Add it"],
    ("name: small", "name: small\nbudget: {unit: hours}"): [
        "e.yaml:2: budget.unit: Input should be 'steps' or 'seconds'; given \"hours\"."
    ],
    ("name: small", "name: small\noverrides: [a=1]"): ["e.yaml:2: overrides: unknown key. It is filled in from --set"],
    ("name: small", "name: small\nsearch: {trials: 3}"): ["e.yaml:2: search.lr: this key is missing"],
    ("name: small", "name: small\nresources: {storage: bucket/x}"): [
        "e.yaml:2: resources.storage: a storage is an absolute folder or a URI such as s3://bucket/prefix; given 'bucket/x'"
    ],
    ("name: small", "name: small\nresources: {workers: {min: 1, max: 2}}"): [
        "e.yaml:2: resources.workers: a range of workers is no longer supported; write one number, for example workers: 4"
    ],
    ("name: small", "name: small\nresources: {workers: 0}"): [
        "e.yaml:2: resources.workers: Input should be greater than 0; given 0"
    ],
    ("name: small", "name: small\nresources: {gpus_per_worker: 1.5}"): [
        "e.yaml:2: resources: gpus_per_worker is at most 1, or a whole number; given 1.5"
    ],
    ("name: small", "name: small\nresources: {workers: 2, gpus_per_worker: 0.5}"): [
        "e.yaml:2: resources: gpus_per_worker: 0.5 puts several workers of one run on one GPU, which NCCL refuses; "
        "give a whole number, or workers: 1"
    ],
    ("name: small", "name: small\nresources: {address: nowhere}"): ["e.yaml:2: resources.address: String should match"],
    ("name: small", "name: ${HOME}"): ["e.yaml:1: name: ${...} is expanded in paths only; write the value itself"],
    ("encoder: resnet34", "encoder: '${X}'"): ["e.yaml:5: pairs.0.teacher.encoder: ${...} is expanded in paths only"],
    ("- none", "- ${X}"): ["e.yaml:14: methods.0: ${...} is expanded in paths only"],
    ("kd: {weight: 2}", "kd: {weight: '${X}'}"): ["e.yaml:15: methods.1.kd.weight: ${...} is expanded in paths only"],
    ("{name: texmosaic", "{root: '${UNSET_ROOT}', name: texmosaic"): [
        "e.yaml:2: data.root: the environment variable UNSET_ROOT is not set. Set it: export UNSET_ROOT="
    ],
    ("{name: texmosaic", "{root: /nowhere/at/all, name: texmosaic"): [
        "e.yaml:2: data.root: there is no folder /nowhere/at/all. Correct the path or fetch the folder."
    ],
    ("{name: texmosaic", "{root: '', name: texmosaic"): ["e.yaml:2: data.root: there is no folder ''"],
    ("{name: texmosaic", "{root: " + "a" * 5000 + ", name: texmosaic"): ["e.yaml:2: data.root: there is no folder"],
    ("{name: texmosaic", "{root: 3, name: texmosaic"): [
        "e.yaml:2: data.root: Input should be text (quote it); given 3"
    ],
    ("resnet34}", "resnet34, checkpoint: {path: /no.pt, sha256: " + "0" * 63 + "z}}"): [
        "e.yaml:5: pairs.0.teacher.checkpoint.path: there is no file /no.pt. Correct the path or fetch the file.",
        "e.yaml:5: pairs.0.teacher.checkpoint.sha256: String should match pattern",
    ],
    ("resnet34}", "resnet34, checkpoint: {path: /, sha256: " + "a" * 64 + "}}"): [
        "e.yaml:5: pairs.0.teacher.checkpoint.path: there is no file /."
    ],
}


@pytest.mark.parametrize(("edit", "messages"), MISTAKES.items(), ids=range(len(MISTAKES)))
def test_a_mistake_is_named_with_file_line_key_and_remedy(tmp_path, edit, messages):
    assert edit[0] in BASE
    found = said(tmp_path, BASE.replace(edit[0], edit[1], 1))
    assert len(found) == len(messages), found
    for line in messages:
        assert any(f.startswith(line) for f in found), found


def test_all_mistakes_are_reported_at_once(tmp_path):
    text = BASE.replace("steps: 4", "steps: x").replace("[0, 1]", "[0.5]").replace("name: small", "nme: small")
    text = text.replace("{name: texmosaic", "{root: /nowhere/at/all, name: texmosaic")
    keys = [line.split(": ")[1] for line in said(tmp_path, text)]
    assert sorted(keys) == ["data.root", "name", "nme", "seeds.0", "train.steps"]


def test_two_pairs_are_two_pairs(tmp_path):
    again = BASE[BASE.index("  - name: one") : BASE.index("train:")]
    text = BASE.replace("train:", again + "train:", 1)
    assert said(tmp_path, text)[0].startswith("e.yaml:9: pairs.1: one is listed twice")
    assert said(tmp_path, text.replace("name: one", "name: two", 1)) == [
        "e.yaml:9: pairs.1: the pair of networks one is listed twice; list each entry once"
    ]
    assert len(load(tmp_path, text.replace("name: one", "name: two", 1).replace("resnet18", "resnet50", 1)).pairs) == 2


def test_set_is_applied_before_validation_and_recorded(tmp_path):
    given = ("train.steps=20", "seeds=[5]", "pairs.0.student.encoder=resnet50", "methods.1.kd.weight=1e-3")
    experiment = load(tmp_path, BASE, *given)
    assert (experiment.train.steps, experiment.seeds) == (20, (5,))
    assert experiment.pairs[0].student.encoder == "resnet50"
    assert experiment.methods[1].parameters["weight"] == 1e-3
    assert experiment.overrides == given
    assert all(run.overrides == given for run in plan(experiment))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=3", "--set train.stepz=3: train.stepz: unknown key. Did you mean 'steps'?"),
        ("train.steps=x", "--set train.steps=x: train.steps: Input should be a valid integer"),
        ("train={steps: 1}", "--set train={steps: 1}: train.batch_size: this key is missing"),
        ("methods=[none, dk]", "--set methods=[none, dk]: methods.1: unknown method 'dk'. Did you mean 'kd'?"),
        ("seeds.7=1", "--set seeds.7=1: seeds is a list of 2"),
        ("overrides=[]", "--set overrides=[]: overrides: unknown key"),
        ("train", "--set train: write it as key.path=value"),
    ],
)
def test_a_mistake_in_set_is_named_as_such(tmp_path, override, message):
    assert said(tmp_path, BASE, override)[0].startswith(message)


def test_paths_are_expanded_and_made_absolute(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("SOME_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for written in ("'${SOME_ROOT}/data'", "data", "./data", "data/"):
        text = BASE.replace("{name: texmosaic", f"{{root: {written}, name: texmosaic")
        assert load(tmp_path, text).data.root == f"{tmp_path}/data"


def test_a_method_from_elsewhere_is_read_by_its_signature(tmp_path, monkeypatch):
    (tmp_path / "elsewhere_method.py").write_text(
        "raise RuntimeError\nclass Mine:\n    def __init__(self, pair, *, path: str, weight: float = 1) -> None: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    target = "elsewhere_method:Mine"
    a = load(tmp_path, BASE.replace("kd: {weight: 2}", f"{{'{target}': {{path: a}}}}"))
    assert a.methods[1].label == f"{target}(path=a)"
    assert "path: this key is missing" in said(tmp_path, BASE.replace("kd: {weight: 2}", target))[0]
    b = load(tmp_path, BASE.replace("kd: {weight: 2}", f"{{'{target}': {{path: b}}}}"))
    ids = [{run.run_id for run in plan(e) if run.method.name == target} for e in (a, b)]
    assert len(ids[0] | ids[1]) == 4  # its `path` is a hyper-parameter like any other


@pytest.mark.parametrize(
    "written",
    [
        "[kd: {weight: 2}, cwd]",
        "[{name: kd, parameters: {weight: 2}}, cwd:]",
        "{name: kd+cwd, parameters: {kd.weight: 2}}",
        "[cwd, kd: {weight: 2}]",
    ],
)
def test_the_forms_of_a_sum_are_one(tmp_path, written):
    method = load(tmp_path, BASE.replace("kd: {weight: 2}", written)).methods[1]
    assert method.label == "cwd+kd(kd.weight=2.0)" and method.needs_teacher and method.caveat is None
    assert method.parameters.keys() == {
        *("kd.weight", "kd.temperature", "kd.convention"),
        *(f"cwd.{name}" for name in ("logits", "feature", "tau", "tap", "convention")),
    }
    cwd, kd = method.parts
    assert kd == load(tmp_path, BASE).methods[1] and cwd.label == "cwd" and cwd.parameters["tau"] == 4.0
    assert Method.summed(method.parts) == method


def test_a_sum_says_whose_values_are_unverified(tmp_path):
    method = load(tmp_path, BASE.replace("kd: {weight: 2}", "[kd, sstkd, freekd]")).methods[1]
    assert (
        method.caveat.startswith("freekd: no published setting")
        and "; sstkd: weights chosen by this project" in method.caveat
    )


def test_labels_tell_methods_apart():
    assert Method(name="kd", parameters={"weight": 1.0, "temperature": 1.0}).label == "kd"
    assert Method(name="kd", parameters={"weight": 2.0, "temperature": 1.0}).label == "kd(weight=2.0)"
    assert Method(name="sstkd", parameters={"stages": ["stage1"]}).label == "sstkd(stages=[stage1])"
    assert not Method(name="none").needs_teacher and Method(name="kd").needs_teacher


# --- JSON Schema -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def schema():
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_shipped_schema_is_up_to_date():
    written = json.loads((EXPERIMENTS / "experiment.schema.json").read_text())
    assert written == json_schema(), "write it again: sstkd-bench schema -o experiments/experiment.schema.json"


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.rglob("*.yaml")), ids=lambda p: p.name)
def test_shipped_experiments_are_valid(schema, path, tmp_path, monkeypatch):
    text = path.read_text()
    for variable in re.findall(r"\$\{(\w+)\}", text):
        monkeypatch.setenv(variable, str(tmp_path))
    for weights in re.findall(r"\$\{WEIGHTS\}/([\w.-]+)", text):
        (tmp_path / weights).write_bytes(b"")
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named and (path.parent / named.group(1)).resolve() == EXPERIMENTS / "experiment.schema.json"
    schema.validate(yaml.safe_load(text))
    assert outline(specfile.load(path))


def changed(**changes):
    data = copy.deepcopy(yaml.safe_load(BASE))
    return {**data, **changes}


@pytest.mark.parametrize(
    "changes",
    [
        {"typo": 1},
        {"name": 3},
        {"seeds": []},
        {"seeds": [-1]},
        {"train": {"steps": 4}},
        {"train": {"steps": 4, "batch_size": 2, "optimizer": {"name": "adam"}}},
        {"train": {"steps": 4, "batch_size": 2, "typo": 1}},
        {"data": {"name": "texmosiac"}},
        {"data": {"name": "texmosaic", "parameters": {"typo": 1}}},
        {"data": {"name": "texmosaic", "parameters": {"size": "big"}}},
        {"methods": ["none", "dk"]},
        {"methods": ["none", {"kd": {"typo": 1}}]},
        {"methods": ["none", {"kd": {"weight": "x"}}]},
        {"methods": ["none", {"kd": {}, "cwd": {}}]},
        {"methods": ["none", {}]},
        {"overrides": []},
    ],
    ids=str,
)
def test_the_schema_refuses_what_the_loader_refuses(schema, tmp_path, changes):
    data = changed(**changes)
    assert not schema.is_valid(data)
    said(tmp_path, yaml.safe_dump(data))


@pytest.mark.parametrize(
    "method",
    [
        "kd",
        {"kd": None},
        {"kd": {"weight": 3}},
        {"name": "kd"},
        {"name": "kd", "parameters": {"weight": 2.5}},
        "harness.distillers.kd:KD",
        {"harness.distillers.kd:KD": {"weight": 2}},
    ],
    ids=str,
)
def test_the_schema_accepts_what_the_loader_accepts(schema, tmp_path, method):
    data = changed(methods=["none", method])
    schema.validate(data)
    assert len(load(tmp_path, yaml.safe_dump(data)).methods) == 2


def test_an_experiment_can_be_built_without_a_file(tmp_path):
    data = yaml.safe_load(BASE)
    data["methods"] = ["none", "kd"]
    experiment = Experiment.model_validate_json(json.dumps(data))
    assert [m.name for m in experiment.methods] == ["none", "kd"]


def test_weights_without_a_digest_get_the_one_their_file_has(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", FIPS 180-2
    for key in ("student.encoder_weights", "teacher.encoder_weights", "teacher.checkpoint"):
        experiment = load(tmp_path, BASE, f"pairs.0.{key}={{path: {tmp_path}/w.pt}}")
        role, _, name = key.partition(".")
        assert getattr(getattr(experiment.pairs[0], role), name).sha256 == known
        same = load(tmp_path, BASE, f"pairs.0.{key}={{path: {tmp_path}/w.pt, sha256: {known}}}")
        assert same.pairs == experiment.pairs
