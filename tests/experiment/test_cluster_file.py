"""An experiment in a Ray cluster file: read as by itself, with the file's own lines and keys in every message."""

import json
import textwrap
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.autoscaler._private.util import prepare_config, validate_config

from harness.experiment.load import load
from harness.experiment.plan import plan
from harness.experiment.schema import json_schema
from harness.training import catalogue
from tests.support.base import BASE
from tests.support.commands import call, refused

CITYSCAPES = Path(__file__).parents[2] / "experiments" / "cityscapes.yaml"
HEAD = """\
cluster_name: small
provider: {type: local, head_ip: 192.0.2.1, worker_ips: []}
metadata:
  experiment:
"""
LINE = HEAD.count("\n")  # lines before the experiment's first


def write(tmp_path, experiment=BASE, head=HEAD):
    path = tmp_path / "cluster.yaml"
    path.write_text(head + textwrap.indent(experiment, "    "))
    return path


def said(tmp_path, *overrides, **file):
    path = write(tmp_path, **file)
    with pytest.raises(ValueError) as error:
        load(path, overrides)
    return str(error.value).replace(f"{tmp_path}/", "").splitlines()


def test_both_forms_are_the_same_experiment(tmp_path):
    plain = tmp_path / "plain.yaml"
    plain.write_text(BASE)
    settings = ["train.steps=20", "methods.1.kd.weight=3"]
    here, there = (load(path, settings) for path in (plain, write(tmp_path)))
    assert here == there and there.train.steps == 20
    assert [run.run_id for run in plan(here)] == [run.run_id for run in plan(there)]


def test_mistakes_have_the_line_of_the_file_and_the_whole_key(tmp_path):
    text = BASE.replace("steps: 4", "steps: many").replace("- none", "- nonne")
    assert said(tmp_path, experiment=text)[0].startswith(
        f"cluster.yaml:{LINE + 10}: metadata.experiment.train.steps: Input should be a valid integer"
    )
    assert said(tmp_path, experiment=BASE.replace("- none", "- nonne"))[0].startswith(
        f"cluster.yaml:{LINE + 14}: metadata.experiment.methods.0: unknown method 'nonne'. Did you mean 'none'?"
    )
    missing = said(tmp_path, experiment=BASE.replace("seeds: [0, 1]\n", ""))
    assert missing == [f"cluster.yaml:{LINE}: metadata.experiment.seeds: this key is missing; it has no default"]
    twice = said(tmp_path, experiment=BASE + "name: again\n")
    assert twice[0].startswith(f"cluster.yaml:{LINE + 17}: metadata.experiment.name: duplicate key")


def test_set_speaks_of_the_experiments_own_keys(tmp_path):
    assert said(tmp_path, "train.steps=x")[0].startswith("--set train.steps=x: train.steps: Input should be")
    assert said(tmp_path, "metadata.experiment.train.steps=3")[0].startswith(
        "--set metadata.experiment.train.steps=3: metadata: unknown key"
    )


@pytest.mark.parametrize("key", ["cluster_name: small", "provider: {type: local}"])
@pytest.mark.parametrize(
    ("rest", "line"),
    [("", 1), ("metadata: {}", 2), ("metadata:\n  experiment:", 3), ("metadata: [experiment]", 2)],
)
def test_a_cluster_file_without_an_experiment(tmp_path, key, rest, line):
    problem = said(tmp_path, experiment="", head=f"{key}\n{rest}\n")
    assert len(problem) == 1 and problem[0].startswith(f"cluster.yaml:{line}: metadata.experiment: a Ray cluster file")


@pytest.mark.parametrize(
    ("written", "ray"), [("lr: 1e-3", "'1e-3'"), ("lr: 1:30", "90"), ("lr: 0o17", "'0o17'"), ("name: off", "False")]
)
def test_what_ray_would_read_otherwise_is_said(tmp_path, written, ray):
    """Ray reads YAML 1.1 and hands what it read to the head node."""
    problem = said(tmp_path, experiment=BASE.replace("  batch_size: 6", f"  batch_size: 6\n  optimizer: {{{written}}}"))
    key = written.partition(":")[0]
    assert f"cluster.yaml:{LINE + 12}: metadata.experiment.train.optimizer.{key}: Ray reads {ray} here" in problem[0]


def test_what_ray_cannot_read_is_said(tmp_path):
    assert "Ray cannot read this file" in said(tmp_path, experiment=BASE.replace("name: small", "name: ="))[0]


def test_what_ray_leaves_on_the_head_node_is_read(tmp_path):
    """Its JSON has numbers that YAML 1.1 takes for text."""
    document = yaml.safe_load(HEAD) | {"metadata": {"experiment": yaml.safe_load(BASE)}}
    document["metadata"]["experiment"]["train"]["optimizer"] = {"lr": 0.00001}
    path = tmp_path / "ray_bootstrap_config.yaml"
    path.write_text(json.dumps(document))
    assert "1e-05" in path.read_text() and load(path).train.optimizer.lr == 1e-5


@pytest.mark.slow
def test_every_command_reads_it(tmp_path):
    path = write(tmp_path)
    assert "5 runs, 5 pending" in call("check", path, "--no-measure", "--results", tmp_path).stdout
    assert "Run it first" in refused("tables", path, "--results", tmp_path)
    assert catalogue.networks(str(path))[0].encoder == "resnet34"


def test_paths_of_another_machine(tmp_path, monkeypatch):
    """They are kept as they are written, and what can be checked without them is."""
    monkeypatch.delenv("NOWHERE", raising=False)
    weights = "encoder_weights: {path: '${NOWHERE}/w.pth'}"
    text = BASE.replace("size: 64}}", "size: 64}, root: '${NOWHERE}/data'}")
    text = text.replace("encoder: resnet18", f"encoder: resnet18\n      {weights}")
    path = tmp_path / "e.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="NOWHERE is not set"):
        load(path)
    experiment = load(path, here=False)
    assert experiment.data.root == "${NOWHERE}/data"
    given = experiment.pairs[0].student.encoder_weights
    assert (given.path, given.sha256) == ("${NOWHERE}/w.pth", None)
    assert len(plan(experiment)) == 5
    for wrong, words in (("name: small", "name: '${NOWHERE}'"), ("batch_size: 6", "batch_size: 0")):
        path.write_text(text.replace(wrong, words))
        with pytest.raises(ValueError, match=r"e\.yaml"):
            load(path, here=False)
    path.write_text(text)
    monkeypatch.setenv("NOWHERE", str(tmp_path))
    with pytest.raises(ValueError, match="there is no folder"):
        load(path)


@pytest.fixture(scope="module")
def schema():
    return Draft202012Validator(json_schema())


def test_editors_accept_both_forms(tmp_path, schema):
    schema.validate(yaml.safe_load(BASE))
    cluster = yaml.safe_load(write(tmp_path).read_text())
    schema.validate(cluster)
    for wrong in (cluster | {"metadata": {}}, {"cluster_name": "x"}, cluster["metadata"]):
        assert not schema.is_valid(wrong)
    cluster["metadata"]["experiment"]["train"]["typo"] = 1
    assert not schema.is_valid(cluster)


def test_the_shipped_file_is_a_valid_ray_cluster():
    """By Ray's own schema and checks, as `ray up` makes them."""
    text = CITYSCAPES.read_text()
    config = yaml.safe_load(text)
    assert (config["metadata"]["experiment"]["resources"]["address"], config["provider"]["type"]) == ("auto", "local")
    filled = prepare_config(config)
    validate_config({**filled, "cluster_synced_files": []})
    starts = [*filled["head_start_ray_commands"], *filled["worker_start_ray_commands"]]
    assert starts and not any("ray stop" in command for command in starts)
    assert "--dashboard-host 127.0.0.1" in starts[0]
    assert any("RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0" in command for command in filled["setup_commands"])
    assert filled["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
