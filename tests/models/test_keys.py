"""Checkpoints with other sources' names: state dicts generated with the documented names are loaded bit for bit."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models as torchvision_models

from harness.experiment.load import load
from harness.experiment.spec import Network
from harness.experiment.weights import Weights, as_weights
from harness.files import sha256
from harness.models import build, load_into, load_weights
from harness.models.keys import NETWORKS, by_own_names, renamed
from tests.support import tiny

CLASSES = 5
State = dict[str, Tensor]


def network(architecture: str, encoder: str, **changes: Any) -> Network:
    return Network.model_validate({"architecture": architecture, "encoder": encoder, **changes})


def rewritten(state: State, rules: list[tuple[str, str]]) -> State:
    """Ours by their names, from their documentation and not from our tables; every name must be known."""
    out = {}
    for name, value in state.items():
        pattern, target = next((rule for rule in rules if re.match(rule[0], name)), (None, ""))
        assert pattern is not None, name
        out[re.sub(pattern, target, name, count=1)] = value
    assert len(out) == len(state)
    return out


CIRKD = [
    (r"encoder\.model\.conv1\.0\.", "pretrained.conv1."),
    (r"encoder\.model\.conv1\.1\.", "pretrained.bn1."),
    (r"encoder\.model\.conv1\.3\.", "pretrained.conv2."),
    (r"encoder\.model\.conv1\.4\.", "pretrained.bn2."),
    (r"encoder\.model\.conv1\.6\.", "pretrained.conv3."),
    (r"encoder\.model\.bn1\.", "pretrained.bn3."),
    (r"encoder\.model\.layer", "pretrained.layer"),
    (r"decoder\.views\.0\.", "head.aspp.b0."),
    (r"decoder\.views\.(\d)\.", r"head.aspp.b\1.block."),
    (r"decoder\.mean\.", "head.aspp.b4.gap."),
    (r"decoder\.merge\.", "head.aspp.project."),
    (r"decoder\.last\.", "head.block."),
    (r"head\.0\.", "head.block.4."),
    (r"auxiliary\.", "auxlayer.block."),
]
_CONVNEXT = [
    (r"encoder\.model\.stem_(\d)\.", r"backbone.downsample_layers.0.\1."),
    (r"encoder\.model\.stages_(\d)\.downsample\.", r"backbone.downsample_layers.\1."),
    (r"encoder\.model\.stages_(\d)\.blocks\.(\d)\.conv_dw\.", r"backbone.stages.\1.\2.depthwise_conv."),
    (r"encoder\.model\.stages_(\d)\.blocks\.(\d)\.mlp\.fc(\d)\.", r"backbone.stages.\1.\2.pointwise_conv\3."),
    (r"encoder\.model\.stages_(\d)\.blocks\.(\d)\.", r"backbone.stages.\1.\2."),
]


def _conv_module(ours: str, theirs: str) -> list[tuple[str, str]]:
    return [(rf"decoder\.{ours}\.{i}\.", f"decode_head.{theirs}.{part}.") for i, part in ((0, "conv"), (1, "bn"))]


MMSEG = [
    *_CONVNEXT,
    (r"decoder\.feature_norms\.(\d)\.", r"backbone.norm\1."),
    *_conv_module(r"psp\.blocks\.(\d)\.1", r"psp_modules.\1.1"),
    *_conv_module(r"psp\.out_conv", "bottleneck"),
    *(
        rule
        for i in range(3)
        for rule in _conv_module(rf"fpn_lateral_blocks\.{i}\.conv_norm_relu", f"lateral_convs.{2 - i}")
    ),
    *(rule for i in range(3) for rule in _conv_module(rf"fpn_conv_blocks\.{i}", f"fpn_convs.{2 - i}")),
    *_conv_module("fusion_block", "fpn_bottleneck"),
    (r"head\.0\.", "decode_head.conv_seg."),
]


def mmseg(state: State) -> State:
    """mmpretrain's pointwise convolutions are linear layers; the auxiliary head is in every published file."""
    out = {n: v.flatten(1) if "pointwise" in n and v.ndim == 4 else v for n, v in rewritten(state, MMSEG).items()}
    return out | {
        "auxiliary_head.convs.0.conv.weight": torch.zeros(4, 4, 3, 3),
        "auxiliary_head.conv_seg.bias": torch.zeros(5),
    }


SOURCES: dict[str, tuple[Network, Callable[[State], State]]] = {
    "CIRKD": (network("deeplabv3-cirkd", "tu-resnet18"), lambda state: rewritten(state, CIRKD)),
    "MMSegmentation": (network("upernet", "tu-convnext_atto", parameters={"decoder_channels": 16}), mmseg),
    "torchvision": (
        network("lraspp", "mobilenet_v3_large"),
        lambda state: {n.removeprefix("network."): v for n, v in state.items()},
    ),
    "torchvision, auxiliary": (
        network("deeplabv3-torchvision", "mobilenet_v3_large"),
        lambda state: (
            {n.removeprefix("network."): v for n, v in state.items()} | {"aux_classifier.4.bias": torch.zeros(21)}
        ),
    ),
}


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("source", SOURCES)
def test_a_checkpoint_with_their_names_is_loaded(source: str) -> None:
    spec, make = SOURCES[source]
    theirs, ours = build(spec, CLASSES, 1), build(spec, CLASSES, 2)
    state = make({name: value.clone() for name, value in theirs.state_dict().items()})
    assert not same(theirs.state_dict(), ours.state_dict()) and not state.keys() & theirs.state_dict().keys()
    load_into(ours, state, "theirs.pth")
    assert same(theirs.state_dict(), ours.state_dict())


def test_one_name_amiss_is_counted_and_the_closest_is_named() -> None:
    spec, make = SOURCES["CIRKD"]
    built = build(spec, CLASSES, 1)
    state = make(dict(built.state_dict()))
    state["pretrained.layer1.0.convolution1.weight"] = state.pop("pretrained.layer1.0.conv1.weight")
    state["head.block.4.bias"] = torch.zeros(7)
    total = len(built.state_dict())
    with pytest.raises(ValueError, match=r"theirs.pth: does not fit this network") as caught:
        load_into(built, state, "theirs.pth")
    text = str(caught.value)
    assert f"{total - 2} matched, 1 missing, 1 unexpected, 1 reshaped" in text
    assert "encoder.model.layer1.0.conv1.weight ~ encoder.model.layer1.0.convolution1.weight" in text
    assert "head.0.bias is 7 in the file and 5 in the network" in text and "\n" not in text


def test_at_most_ten_names_are_shown_and_strange_ones_cost_nothing() -> None:
    built = build(network("fpn", "tu-mobilenetv3_small_050"), CLASSES, 0)
    state = {f"x{i}.\x1b[2J" + "n" * 10**5: value for i, value in enumerate(built.state_dict().values())}
    with pytest.raises(ValueError) as caught:
        load_into(built, state, "strange.pth")
    text = str(caught.value)
    missing = len(built.state_dict())
    assert f"0 matched, {missing} missing, {missing} unexpected" in text and f"and {missing - 10} more" in text
    assert len(text) < 2500 and "\x1b" not in text


def test_no_table_takes_a_networks_own_names_for_others() -> None:
    for spec in (network("deeplabv3-cirkd", "tu-resnet18"), network("lraspp", "mobilenet_v3_large")):
        own = build(spec, CLASSES, 0).state_dict()
        assert by_own_names(own, own) is own
        for table in NETWORKS.values():
            assert len(renamed(own, table)) <= len(own)


@pytest.mark.parametrize("wrap", ["state_dict_ema", "ema", "teacher+module.", "model_state_dict+module.model."])
def test_wrapped_names_of_others(tmp_path: Path, wrap: str) -> None:
    spec, make = SOURCES["CIRKD"]
    theirs, ours = build(spec, CLASSES, 1), build(spec, CLASSES, 2)
    key, _, prefix = wrap.partition("+")
    path = tmp_path / "w.pth"
    torch.save({"epoch": 3, key: {prefix + n: v for n, v in make(dict(theirs.state_dict())).items()}}, path)
    load_into(ours, load_weights(Weights(path=str(path), sha256=sha256(path))), str(path))
    assert same(theirs.state_dict(), ours.state_dict())


def test_a_folder_of_save_pretrained_is_a_checkpoint(tmp_path: Path) -> None:
    options = {"decoder_pyramid_channels": 32, "decoder_segmentation_channels": 32}
    published = smp.FPN("tu-mobilenetv3_small_050", encoder_weights=None, classes=CLASSES, **options)
    published.save_pretrained(str(tmp_path / "mine"))
    path = tiny.write(tmp_path)
    given = [f"pairs.0.teacher.checkpoint={{path: {tmp_path}/mine}}", "pairs.0.teacher.parameters={decoder_pyramid_channels: 32, decoder_segmentation_channels: 32}"]  # fmt: skip
    teacher = load(path, given).pairs[0].teacher
    assert teacher.checkpoint is not None and teacher.checkpoint.path == str(tmp_path / "mine" / "model.safetensors")
    ours = build(teacher, CLASSES, 0)
    load_into(ours, load_weights(teacher.checkpoint), teacher.checkpoint.path)
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours.eval()(image).full, published.eval()(image))


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match=r"checkpoint.path: there is no file .*mine"):
        load(tiny.write(tmp_path), [f"pairs.0.teacher.checkpoint={{path: {tmp_path}/mine}}"])


@pytest.mark.parametrize("given", ['""', '"${NOTHING_SET}"'])
def test_no_path_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOTHING_SET", "")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"pairs.0.teacher.checkpoint"):
        load(tiny.write(tmp_path), [f"pairs.0.teacher.checkpoint={{path: {given}}}"])


def encoder_file(tmp_path: Path, state: State, **changes: Any) -> dict[str, Any]:
    path = tmp_path / "encoder.safetensors"
    save_file({name: value.contiguous().clone() for name, value in state.items()}, path)
    return {"encoder_weights": {"path": str(path), "sha256": sha256(path)}, **changes}


def test_a_backbone_of_mmsegmentation_is_an_encoder(tmp_path: Path) -> None:
    plain = timm.create_model("resnet50c", pretrained=False)
    stem = {"conv1.0": "stem.0", "conv1.1": "stem.1", "conv1.3": "stem.3", "conv1.4": "stem.4", "conv1.6": "stem.6"}
    state: State = {"decode_head.conv_seg.bias": torch.zeros(3)}
    for name, value in plain.state_dict().items():
        new = next((t + name.removeprefix(o) for o, t in stem.items() if name.startswith(f"{o}.")), name)
        if not name.startswith("fc."):
            state["backbone." + (new.replace("bn1", "stem.7") if name.startswith("bn1.") else new)] = value
    built = build(network("fpn", "tu-resnet50c", **encoder_file(tmp_path, state)), CLASSES, 0)
    own = {n.removeprefix("model."): v for n, v in built.loaded_encoder().state_dict().items()}
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in own.items())


def test_a_mobilenet_of_torchvision_is_a_backbone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    plain = torchvision_models.mobilenet_v3_large(weights=None)
    built = build(network("lraspp", "mobilenet_v3_large", **encoder_file(tmp_path, plain.state_dict())), CLASSES, 0)
    assert torch.equal(built.loaded_encoder().state_dict()["0.0.weight"], plain.state_dict()["features.0.0.weight"])


def test_positions_of_another_size_are_resized_as_timm_does(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224"
    torch.manual_seed(3)
    plain = timm.create_model(name, pretrained=False)
    given = encoder_file(tmp_path, plain.state_dict(), parameters={"img_size": 64})
    before = torch.random.get_rng_state()
    built = build(network("vit-linear", f"tu-{name}", **given), CLASSES, 0)
    assert torch.equal(before, torch.random.get_rng_state())
    path = given["encoder_weights"]["path"]
    small = timm.create_model(
        name,
        pretrained=True,
        img_size=64,
        pretrained_cfg_overlay={"file": path, "num_classes": 1000, "custom_load": False},
    )
    assert torch.equal(built.loaded_encoder().state_dict()["model.pos_embed"], small.state_dict()["pos_embed"])


def test_patches_of_another_size_are_not_resized(tmp_path: Path) -> None:
    """The positions would be resized too: it would be another network than the file's."""
    plain = timm.create_model("vit_tiny_patch16_224", pretrained=False, patch_size=8, img_size=64)
    with pytest.raises(ValueError, match=r"1 reshaped|2 reshaped"):
        build(
            network("vit-linear", "tu-vit_tiny_patch16_224", **encoder_file(tmp_path, plain.state_dict())), CLASSES, 0
        )


def lite(state: State) -> State:
    """timm's names as the packages have them: blocks in one list, a first one that does not expand."""
    blocks = sorted({tuple(map(int, name.split(".")[1:3])) for name in state if name.startswith("blocks.")})
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    others = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    others |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    around = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    out = {}
    for name, value in state.items():
        part, *rest = name.split(".")
        if part != "blocks":
            out[f"{around[part]}.{rest[0]}"] = value
            continue
        stage, index, module, last = rest
        table = first if stage == "0" else others
        out[f"_blocks.{blocks.index((int(stage), int(index)))}.{table[module]}.{last}"] = value
    assert len(out) == len(state)
    return out


@pytest.mark.filterwarnings("ignore:`timm-` encoders:DeprecationWarning")
@pytest.mark.parametrize("encoder", ["tu-tf_efficientnet_lite0", "timm-tf_efficientnet_lite0"])
def test_an_efficientnet_lite_as_packages_carry_it(tmp_path: Path, encoder: str) -> None:
    torch.manual_seed(2)
    plain = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    built = build(network("fpn", encoder, **encoder_file(tmp_path, lite(plain))), CLASSES, 0)
    own = {n.removeprefix("model."): v for n, v in built.loaded_encoder().state_dict().items()}
    assert len(own) > 200 and all(torch.equal(value, plain[name]) for name, value in own.items())


def test_an_efficientnet_lite_of_another_size_is_refused(tmp_path: Path) -> None:
    plain = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    with pytest.raises(
        ValueError, match=r"does not fit the encoder tu-tf_efficientnet_lite2: \d+ matched, \d+ missing"
    ):
        build(network("fpn", "tu-tf_efficientnet_lite2", **encoder_file(tmp_path, lite(plain))), CLASSES, 0)


def smp_state() -> State:
    torch.manual_seed(1)
    return dict(smp.FPN("tu-mobilenetv3_small_050", encoder_weights=None, classes=CLASSES).state_dict())


def averaged(state: State) -> State:
    return {"n_averaged": torch.tensor(3), **{f"module.{name}": value for name, value in state.items()}}


TAKEN: dict[str, Callable[[State], State]] = {
    "AveragedModel": averaged,
    "a compiled part": lambda s: {n.replace("encoder.", "encoder._orig_mod."): v for n, v in s.items()},
    "no counters": lambda s: {n: v for n, v in s.items() if not n.endswith("num_batches_tracked")},
    "more counters": lambda s: s | {"encoder.other.num_batches_tracked": torch.tensor(1)},
    "doubles": lambda s: {n: v.double() if v.is_floating_point() else v for n, v in s.items()},
}


@pytest.mark.parametrize("how", TAKEN)
def test_what_training_programs_write(how: str) -> None:
    state, built = smp_state(), build(network("fpn", "tu-mobilenetv3_small_050"), CLASSES, 0)
    load_into(built, TAKEN[how](state), "w.pth")
    own = {n.replace("head.", "segmentation_head.", 1) if n.startswith("head.") else n: v for n, v in built.state_dict().items()}  # fmt: skip
    assert (
        all(torch.equal(own[n], v) for n, v in state.items() if "num_batches" not in n) and own.keys() == state.keys()
    )


REFUSED: dict[str, tuple[Callable[[State], State], str]] = {
    "Lightning's buffers": (
        lambda s: {"mean": torch.zeros(3), "std": torch.ones(3), **{f"model.{n}": v for n, v in s.items()}},
        "0 missing, 2 unexpected, 0 reshaped (unexpected: mean, std)",
    ),
    "the loss": (lambda s: s | {"criterion.weight": torch.ones(5)}, "1 unexpected, 0 reshaped (unexpected: criterion"),
    "two names of one tensor": (
        lambda s: s | {"head.0.bias": torch.ones(CLASSES)},
        "0 missing, 1 unexpected, 0 reshaped (unexpected: segmentation_head.0.bias)",
    ),
    "no statistics": (lambda s: {n: v for n, v in s.items() if "running_var" not in n}, "missing: encoder.model."),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_is_over_or_missing_is_named(how: str) -> None:
    make, words = REFUSED[how]
    state = make({"head.0.bias": torch.zeros(CLASSES)} | smp_state() if how.startswith("two") else smp_state())
    with pytest.raises(ValueError) as caught:
        load_into(build(network("fpn", "tu-mobilenetv3_small_050"), CLASSES, 0), state, "w.pth")
    assert words in str(caught.value), caught.value


def test_a_checkpoint_that_holds_itself_ends(tmp_path: Path) -> None:
    content: dict[str, Any] = {"epoch": 1}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="mappings within mappings"):
        load_weights(Weights(path=str(tmp_path / "w.pth"), sha256=sha256(tmp_path / "w.pth")))


@pytest.mark.parametrize("given", ["hf:org/name@main", "hf:org/name@refs/pr/3", "hf:name", "hf:org/name@v1.0+x"])
def test_repositories(given: str) -> None:
    assert as_weights(given) == {"hub": given[3:]} and Weights(hub=given[3:]).named == given


@pytest.mark.parametrize(
    "given", ["hf:", "hf:a b/c", "hf:org/name/sub", "hf:org/name@", "hf:o/n@../../etc", "hf:o/n@a//b"]
)
def test_no_repositories(given: str) -> None:
    with pytest.raises(ValueError, match=r"names no repository\. Write hf:ORGANISATION/NAME"):
        as_weights(given)
