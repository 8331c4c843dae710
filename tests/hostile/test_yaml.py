"""Malformed YAML: experiment files, class tables and `--set`, each given to the real command."""

import pytest

from tests.support import hostile, trees
from tests.support.base import BASE

pytestmark = pytest.mark.slow

ESCAPE = "\x1b[31m"
BRACKETS = "[" * 5000
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefghi", "bcdefghij", strict=True)
)
# What any YAML file may have wrong: a text that stands by itself.
BROKEN = {
    "nothing": "",
    "a list": "- 1\n- 2\n",
    "a word": "word\n",
    "two documents": "a: 1\n---\nb: 1\n",
    "brackets": f"a: {BRACKETS}",
    "closed brackets": f"a: {BRACKETS}{']' * 5000}",
    "braces": "a: " + "{b: " * 3000,
    "indented": "".join(f"{' ' * n}k{n}:\n" for n in range(200)),
    "dashes": "a: " + "\n" + "- " * 500 + "x",
    "laughs": LAUGHS,
    "alias": "a: *b\n",
    "anchor": "a: &b 1\n",
    "a cycle": "a: &a [*a]\n",
    "merge": "a: &a {b: 1}\nc: {<<: *a}\n",
    "python tag": "a: !!python/object/apply:os.system ['touch stray']\n",
    "long tag": f"a: !{'t' * 50_000} x\n",
    "tag": "a: !include x.yaml\n",
    "binary": "a: !!binary aGVsbG8=\n",
    "set": "a: !!set {b, c}\n",
    "duplicate": "a: 1\nb: 2\na: 3\n",
    "duplicate below": "a: {b: 1, b: 2}\n",
    "a key of 3": "3: x\n",
    "a key of null": "~: x\n",
    "a list as key": "[a, b]: x\n",
    "a mapping as key": "? {a: 1}\n: x\n",
    "tab": "a:\n\tb: 1\n",
    "no quote": 'a: "b\n',
    "no end": "a: [1, 2\n",
    "colon": "a: b: c\n",
    "nan": "a: .nan\n",
    "inf": "a: [1, -.inf]\n",
    "1e999": "a: 1e999\n",
    "digits": f"a: {'9' * 5000}\n",
    "hexadecimal digits": f"a: 0x{'f' * 5000}\n",
    "bell": "a: x\ay\n",
    "escape": f"a: {ESCAPE}\n",
    "escaped key": '"\\e[31mred": 1\n',
    "NUL": "a: \0\n",
    "escaped NUL": 'a: "\\0"\n',
    "half a character": 'a: "\\ud800"\n',
    "no character": 'a: "\\Uffffffff"\n',
    "an unknown escape": 'a: "\\q"\n',
    "not UTF-8": b"a: \xff\xfe\n",
    "UTF-16": "a: 1\n".encode("utf-16"),
    "binary file": bytes(range(256)) * 40,
    "zeros": bytes(100_000),
    "directive": "%YAML 9.9\n---\na: 1\n",
    "long directive": f"%YAML 1.{'9' * 6000}\n---\na: 1\n",
    "2 MB": "a: " + "x" * 2_000_000,
    "values": f"a: [{'1,' * 60_000}]\n",
    "keys": "".join(f"k{n}: 1\n" for n in range(30_000)),
    "long key": f"{'k' * 200_000}: 1\n",
    "question": "? a\n? b\n",
    "html": "<html><body>404</body></html>\n",
    "lfs": "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("yaml")


def written(folder, name, content):
    here = folder / "here"
    here.mkdir(exist_ok=True)
    path = here / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return here


@pytest.mark.parametrize("name", BROKEN)
def test_an_experiment_file(folder, name):
    here = written(folder, "e.yaml", BROKEN[name])
    assert hostile.complaints(hostile.run(["check", "--no-measure", "e.yaml"], here), ["e.yaml"]) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_list_of_classes(folder, name):
    here = written(folder, "classes.yaml", BROKEN[name])
    ended = hostile.run(["data", "check", "folder", "--root", "."], here)
    assert hostile.complaints(ended, ["classes.yaml"]) == []


CLASSES = {
    "unknown keys": (f"classes: [{{name: a, value: 0, {', '.join(f'k{n}: 1' for n in range(5000))}}}]", "classes.0.k0"),
    "no value": ("classes: [{name: a}, {name: b, value: 1}]", "classes.0.value"),
    "no name": ("classes: [{value: 0}, {name: b, value: 1}]", "classes.0.name"),
    "a value of 256": ("classes: [{name: a, value: 256}, {name: b, value: 1}]", "classes.0.value"),
    "a value of -1": ("classes: [{name: a, value: -1}, {name: b, value: 1}]", "classes.0.value"),
    "a value of 1:30": ("classes: [{name: a, value: 1:30}, {name: b, value: 1}]", "classes.0.value"),
    "a value of 1e0": ("classes: [{name: a, value: 1e0}, {name: b, value: 1}]", "classes.0.value"),
    "a value of true": ("classes: [{name: a, value: true}, {name: b, value: 1}]", "classes.0.value"),
    "a list as value": ("classes: [{name: a, value: [1]}, {name: b, value: 1}]", "classes.0.value"),
    "an escape": ('classes: [{name: "\\e[31m", value: 0}, {name: b, value: 1}]', "classes.0.name"),
    "a new line": ('classes: [{name: "a\\nb", value: 0}, {name: b, value: 1}]', "classes.0.name"),
    "a long name": (f"classes: [{{name: {'a' * 100_000}, value: 0}}, {{name: b, value: 1}}]", "classes.0.name"),
    "an empty name": ("classes: [{name: '', value: 0}, {name: b, value: 1}]", "classes.0.name"),
    "two equal names": ("classes: [{name: a, value: 0}, {name: a, value: 1}]", "the name a"),
    "two equal values": ("classes: [{name: a, value: 0}, {name: b, value: 0}]", "the value 0"),
    "one class": ("classes: [{name: a, value: 0}]", "classes"),
    "300 classes": (f"classes: [{', '.join(f'{{name: c{n}, value: {n}}}' for n in range(300))}]", "classes"),
    "two colours": ("classes: [{name: a, value: 0, colour: [1, 2]}, {name: b, value: 1}]", "classes.0.colour"),
    "a colour of 256": ("classes: [{name: a, value: 0, colour: [1, 2, 256]}, {name: b, value: 1}]", "colour.2"),
    "ignore 300": ("classes: [{name: a, value: 0}, {name: b, value: 1}]\nignore: [300]", "ignore.0"),
    "ignore text": ("classes: [{name: a, value: 0}, {name: b, value: 1}]\nignore: all", "ignore"),
}


@pytest.mark.parametrize("name", CLASSES)
def test_what_a_list_of_classes_says(folder, name):
    text, word = CLASSES[name]
    here = written(folder, "classes.yaml", text)
    ended = hostile.run(["data", "check", "folder", "--root", "."], here)
    assert hostile.complaints(ended, ["classes.yaml", word]) == []


# A key and a value for it that no experiment has; the message names the key.
VALUES = {
    "train.steps": ["1e30", "0", "-1", "9" * 60, "4.5", "'4'", "[4]", "true", "null", "0x7fffffffffffffff"],
    "train.batch_size": ["1000000", "0"],
    "train.eval_batch_size": ["1000000000"],
    "train.accumulate": ["1000000000", "5"],
    "train.augment.crop_hw": ["[64]", "[100000, 100000]", "[64, 64, 64]", "64", "[0, 64]", "[]", "[8192, 8192]"],
    "train.augment.scale": ["[0.0001, 1]", "[1, 1e9]", "[2, 1]"],
    "train.augment.jitter": ["1e9"],
    "train.evaluation.scales": ["[1e9]", "[]", f"[{', '.join(['1'] * 5000)}]"],
    "train.evaluation.window_hw": ["[1000000, 1000000]", "[64]"],
    "train.evaluation.boundary": ["1000000000000"],
    "train.optimizer.lr": ["1e300", "-1", "x"],
    "train.optimizer.betas": ["[0.9]", "[0.9, 2]"],
    "train.optimizer.name": ["x" * 50_000, "sdg"],
    "train.schedule.warmup_steps": ["1000000000000000"],
    "resources.cpus_per_worker": ["10000000000", "1e10"],
    "resources.workers": ["1000000000"],
    "resources.gpus_per_worker": ["1e10", "1.5"],
    "resources.loader_workers": ["1000000000"],
    "resources.bucket_mb": ["1000000000000"],
    "resources.max_failures": ["1000000000000"],
    "resources.checkpoints.keep": ["1000000000000"],
    "seeds": ["[9223372036854775808]", "[-1]", "[1, 1]", "[]", "[" + "1, " * 20_000 + "1]", "3"],
    "pairs.0.student.parameters": ["{decoder_channels: [1000000000]}", "{a: {b: [1e30]}}"],
    "pairs.0.student.encoder": ["x" * 100_000, "3"],
    "pairs.0.teacher.seed": ["-1"],
    "data.name": ["x" * 50_000, "texmosiac", "[a]"],
    "data.parameters.train": ["1000000000", "0"],
    "data.parameters.size": ["1000000", "31"],
    "data.parameters.seed": ["-1", "99999999999999999999999"],
    "methods": ["[]", "[kd]", "[none, " + "[kd, [kd]], " * 3 + "]", "[none, {kd: {wieght: 1}}]", f"[{'x' * 50_000}]"],
    "name": ["../up", "'\\e[31m'", "a/b", "''", "x" * 500],
}


@pytest.mark.parametrize(("key", "number"), [(key, n) for key, values in VALUES.items() for n in range(len(values))])
def test_a_value_by_set(folder, key, number):
    here = written(folder, "e.yaml", BASE)
    ended = hostile.run(["check", "--no-measure", "e.yaml", "--set", f"{key}={VALUES[key][number]}"], here)
    assert hostile.complaints(ended, [key.rpartition(".")[2]]) == []


SAID = {
    "train.augment.crop_hw=[64]": "train.augment.crop_hw.1: the list ends before this item; given [64]",
    "train.evaluation.window_hw=[64]": "train.evaluation.window_hw.1: the list ends before this item; given [64]",
    "resources.cpus_per_worker=1e10": "resources.cpus_per_worker: Input should be a valid integer; given 10000000000.0",
    "resources.cpus_per_worker=10000000000": "resources.cpus_per_worker: Input should be less than or equal to",
    f"seeds.{'9' * 5000}=1": "seeds is a list of",
    "train.steps=1e30": "train.steps: ",
}


@pytest.mark.parametrize("assignment", SAID)
def test_what_is_said_of_an_assignment(folder, assignment):
    here = written(folder, "e.yaml", BASE)
    ended = hostile.run(["check", "--no-measure", "e.yaml", "--set", assignment], here)
    assert hostile.complaints(ended, ["error: --set ", SAID[assignment]]) == [], ended.text


def test_set_of_a_dataset_is_read_as_experiment_files_are():
    from harness.cli.data import _parameters

    read = _parameters("folder", ["dev_seed=010", "val_seed=0o10", "val_fraction=1e-1"])
    assert (read["dev_seed"], read["val_seed"], read["val_fraction"]) == (10, 8, 0.1)
    with pytest.raises(ValueError, match=r"--set dev_seed: .*given .?1:30"):
        _parameters("folder", ["dev_seed=1:30"])


ASSIGNMENTS = [
    "",
    "=",
    "=1",
    "train",
    "train..steps=1",
    ".=1",
    "." * 3000 + "=1",
    ".".join(["a"] * 3000) + "=1",
    f"seeds.{'9' * 5000}=1",
    "seeds.-1=1",
    "seeds.\u0663=1",
    "seeds.x=1",
    "name.x=1",
    "train.steps.x=1",
    f"train.{ESCAPE}=1",
    f"{'k' * 100_000}=1",
    f"train.steps={BRACKETS}",
    f"train.steps={'{a: ' * 3000}",
    "train.steps=*a",
    "train.steps=&a 1",
    "train.steps=!!int 1",
    "train.steps=1\n2",
    f"train.steps={ESCAPE}",
    "train.steps={a: 1, a: 2}",
    "train.steps=" + "9" * 5000,
    "train.steps=\udcff",
    "train.\udcff=1",
    f"train={{{', '.join(f'k{n}: 1' for n in range(5000))}}}",
]


@pytest.mark.parametrize("command", ["check", "data"])
@pytest.mark.parametrize("number", range(len(ASSIGNMENTS)))
def test_an_assignment(folder, command, number):
    here = written(folder, "e.yaml", BASE)
    words = ["data", "check", "texmosaic"] if command == "data" else ["check", "--no-measure", "e.yaml"]
    ended = hostile.run([*words, "--set", ASSIGNMENTS[number]], here)
    assert hostile.complaints(ended, ["--set"]) == []


def test_unknown_keys_are_listed_up_to_a_number(folder):
    here = written(folder, "e.yaml", BASE + "".join(f"unknown{n}: 1\n" for n in range(5000)))
    ended = hostile.run(["check", "--no-measure", "e.yaml"], here)
    assert hostile.complaints(ended, ["e.yaml:17: unknown0", "... and 4980 more"]) == []


def test_a_pipe_is_not_waited_for(folder):
    import os

    here = written(folder, "other.yaml", "")
    os.mkfifo(here / "pipe.yaml")
    for name in ("pipe.yaml", "/dev/zero", "."):
        ended = hostile.run(["check", "--no-measure", name], here)
        assert hostile.complaints(ended, [name]) == []
    (here / "classes.yaml").unlink(missing_ok=True)
    os.mkfifo(here / "classes.yaml")
    ended = hostile.run(["data", "check", "folder", "--root", "."], here)
    assert hostile.complaints(ended, ["classes.yaml"]) == []


def test_classes_are_read_as_experiment_files_are(tmp_path):
    from harness.datasets.folder import read_classes

    trees.write_folder(tmp_path, classes="classes:\n- {name: no, value: 010}\n- {name: 1:30, value: 0o10}\n")
    found = read_classes(tmp_path / "classes.yaml")
    assert [(entry.name, entry.value) for entry in found.classes] == [("no", 10), ("1:30", 8)]
