"""config.json beside a checkpoint is believed: what contradicts the experiment file is an error, before anything is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp

from harness.experiment.spec import Network
from harness.models import build
from harness.models.described import require_as_described
from harness.models.inputs import IMAGENET
from harness.models.tapnet import TapNet

NAMES = ("sky", "road surface", "tree")
UNET = {
    "architecture": "unet",
    "encoder": "tu-mobilenetv3_small_050",
    "parameters": {"decoder_channels": [16, 16, 16, 16, 8]},
}
SMALL = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 8, 8, 8],
    "decoder_hidden_size": 8,
    "num_attention_heads": [1, 1, 1, 1],
}
SEGFORMER = {"architecture": "segformer-transformers", "encoder": "mit-b0", "parameters": SMALL}
BUILT: dict[str, TapNet] = {}


def judged(
    folder: Path, given: dict[str, Any], names: tuple[str, ...] = NAMES, file: str = "model.safetensors"
) -> None:
    key = json.dumps(given)
    network = Network.model_validate(given)
    if key not in BUILT:
        BUILT[key] = build(network, len(NAMES), 0)
    require_as_described(BUILT[key], network, str(folder / file), names, *IMAGENET)


def smp_folder(folder: Path, encoder: str = "tu-mobilenetv3_small_050", **changes: Any) -> Path:
    options = {"decoder_channels": [16, 16, 16, 16, 8], **changes}
    smp.Unet(encoder, encoder_weights=None, classes=len(NAMES), **options).save_pretrained(folder)
    return folder


def segformer_folder(folder: Path, **changes: Any) -> Path:
    transformers = pytest.importorskip("transformers")
    labels = dict(enumerate(NAMES))
    config = transformers.SegformerConfig(**{**SMALL, "id2label": labels, **changes})
    config.architectures = ["SegformerForSemanticSegmentation"]
    config.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "rescale_factor": 1 / 255}))  # fmt: skip
    return folder


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_agrees_is_taken(tmp_path: Path) -> None:
    judged(smp_folder(tmp_path / "smp"), UNET)
    judged(segformer_folder(tmp_path / "t"), SEGFORMER, ("Sky", "road-surface", "tree"))
    edited(tmp_path / "smp" / "config.json", decoder_use_batchnorm=True)  # of an older release
    judged(tmp_path / "smp", UNET)


def test_a_file_of_ones_own_has_no_description(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"_model_class": "FPN"}')
    judged(tmp_path, UNET, file="teacher.pth")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_model_class": "FPN"}, "FPN of segmentation-models-pytorch; the file has unet, not fpn"),
        ({"encoder_name": "resnet18"}, "encoder_name resnet18; the file has encoder: tu-mobilenetv3_small_050"),
        ({"classes": 4}, "4 classes; the data has 3"),
        ({"in_channels": 1}, "1 channels of an image; here they are 3"),
        ({"decoder_interpolation": "bilinear"}, "decoder_interpolation bilinear; the network here has nearest"),
        ({"decoder_channels": [16, 16, 16, 16, 9]}, "decoder_channels [16, 16, 16, 16, 9]; the network here has"),
        ({"_model_class": None, "model_type": "segformer"}, "describes another network than the experiment file"),
    ],
)
def test_of_segmentation_models_pytorch(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    edited(smp_folder(tmp_path) / "config.json", **changes)
    with pytest.raises(ValueError) as caught:
        judged(tmp_path, UNET)
    assert words in str(caught.value) and "correct or delete it" in str(caught.value), caught.value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layer_norm_eps": 1e-3}, "layer_norm_eps 0.001; the network here has 1e-06"),
        ({"num_attention_heads": [2, 1, 1, 1]}, "num_attention_heads [2, 1, 1, 1]"),
        ({"id2label": {0: "road surface", 1: "sky", 2: "tree"}}, "class 0 is road surface; the data's is sky"),
        ({"id2label": {0: "sky", 1: "tree"}}, "2 classes; the data has 3"),
        ({"num_channels": 4}, "4 channels of an image"),
    ],
)
def test_of_transformers(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    segformer_folder(tmp_path, **changes)
    with pytest.raises(ValueError) as caught:
        judged(tmp_path, SEGFORMER)
    assert words in str(caught.value), caught.value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_mean": [0.5, 0.5, 0.5]}, "mean [0.5, 0.5, 0.5] of images in 0 to 1; here it is [0.485, 0.456, 0.406]"),
        ({"image_std": [0.5, 0.5, 0.5]}, "(`input: {std: [0.5, 0.5, 0.5]}` changes it)"),
        ({"do_normalize": False}, "mean [0.0, 0.0, 0.0] of images in 0 to 1"),
        ({"rescale_factor": 1.0}, "mean [0.0019, 0.0018, 0.0016] of images in 0 to 1"),
    ],
)
def test_of_images(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    edited(segformer_folder(tmp_path) / "preprocessor_config.json", **changes)
    with pytest.raises(ValueError) as caught:
        judged(tmp_path, SEGFORMER)
    assert words in str(caught.value), caught.value


@pytest.mark.parametrize("text", ["{", "[1]", "\x00"])
def test_a_description_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config.json .*or delete it"):
        judged(tmp_path, UNET)


def test_of_another_library(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"SegformerForSemanticSegmentation of transformers; the file has unet"):
        judged(segformer_folder(tmp_path), UNET)
    with pytest.raises(ValueError, match=r"Unet of segmentation-models-pytorch; the file has segformer-transformers"):
        judged(smp_folder(tmp_path / "smp"), SEGFORMER)
