"""`sstkd-bench methods`: what it says is what the classes and one step of training give."""

import re

import pytest
from typer.testing import CliRunner

from harness.cli.app import app
from harness.distillers import METHODS
from harness.experiment.method import Method
from harness.experiment.spec import Network
from harness.models import build
from harness.taps import Pair
from harness.training import catalogue
from harness.training.build import build_method
from harness.training.cost import parameters
from tests.support.tiny import write

SMALL = "fpn/resnet18:fpn/tu-mobilenetv3_small_050"


def call(*arguments, code=0):
    result = CliRunner().invoke(app, ["methods", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def listed():
    lines = call("--no-measure", "--side", 64, "--pair", SMALL, "--classes", 5).stdout.splitlines()
    assert all(len(line) <= 80 for line in lines[:-2]) and "sstkd-bench methods NAME" in lines[-1]
    return {line.split()[0]: line for line in lines[1:-2]}


def test_every_method_is_listed_with_its_terms(listed):
    assert list(listed) == list(METHODS)
    assert "response, structural, statistical  " in listed["sstkd"]


def test_one_method_is_explained_with_its_ranges_and_paper():
    for name, kind in METHODS.items():
        said = " ".join(call(name).stdout.split())
        assert all(f"{low:g} to {high:g}" in said for low, high in kind.space.values()), said
        assert kind.caveat in said and all(number in said for number in re.findall(r"\d{4}\.\d{5}", kind.paper)), said


def test_extra_parameters_are_those_of_the_built_method(listed):
    teacher, student = (catalogue.network(text) for text in SMALL.split(":"))
    pair = Pair(build(student, 5, 0).info(), build(teacher, 5, 0).info(), 5)
    for name in METHODS:
        assert f" {parameters(build_method(Method(name=name), pair, 1)):,} " in listed[name]


@pytest.mark.slow
def test_what_does_not_apply_says_why(tmp_path):
    narrow = Network(architecture="unet", encoder="resnet18", parameters={"decoder_channels": [32, 16, 8, 8, 6]})
    found = {facts.name: facts for facts in catalogue.describe(narrow, narrow, 3, 32, measure=False)}
    assert found["af-dcd"].reason == "the teacher's decoder has 6 channels, no multiple of groups 4"
    assert [name for name, facts in found.items() if facts.reason] == ["af-dcd"]
    text = call("--no-measure", "--side", 32, "--pair", write(tmp_path)).stdout
    assert "does not apply" not in text


def test_step_cost_is_relative_to_the_plain_student():
    teacher, student = (catalogue.network(text) for text in SMALL.split(":"))
    facts = catalogue.describe(teacher, student, 5, 64, measure=True)
    assert next(facts).relative_step == 1.0
    assert next(facts).relative_step > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cdw"], "unknown method 'cdw'. Did you mean 'cwd'?"),
        (["math:sin"], "math: 'math' has no Python source file"),
        (["--pair", "unet"], "write TEACHER:STUDENT"),
        (["--pair", "unet:unet/resnet18"], "'unet' is not a network; write ARCHITECTURE/ENCODER"),
        (["--pair", "unett/resnet18:unet/resnet18"], "unknown architecture 'unett'. Did you mean 'unet'?"),
        (["--pair", "none.yaml"], "none.yaml"),
        (["--side", "8"], "at least 32 pixels"),
    ],
)
def test_mistakes_are_answered(arguments, message):
    result = call(*arguments, code=2)
    assert message in result.stderr and "Traceback" not in result.output
