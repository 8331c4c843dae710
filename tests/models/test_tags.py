"""What a name of published weights means, and which statistics belong to it."""

from pathlib import Path

import pytest

import harness
from harness.experiment.spec import Network
from harness.models import pretrained
from tests.support.hubs import Hub
from tests.support.published import experiment


@pytest.mark.parametrize(
    ("architecture", "encoder", "tag", "said"),
    [
        ("fpn", "tu-resnet18", "a1", "timm/resnet18.a1_in1k"),
        ("fpn", "tu-convnext_tiny", "in22k", "timm/convnext_tiny.fb_in22k"),
        ("fpn", "tu-convnext_tiny", "dinov3", "timm/convnext_tiny.dinov3_lvd1689m"),
        ("vit-linear", "tu-vit_small_patch16_dinov3", "dinov3", "timm/vit_small_patch16_dinov3.lvd1689m"),
        ("fpn", "tu-resnet18.tv_in1k", "imagenet", "timm/resnet18.tv_in1k"),
        ("fpn", "resnet18", "ssl", "smp-hub/resnet18.ssl at d600d5116aac2e6e595f99f40612074c723c00b2"),
        ("fpn", "inceptionv4", "imagenet+background", "smp-hub/inceptionv4.imagenet-background"),
        ("fpn", "timm-mobilenetv3_large_100", "imagenet", "timm/tf_mobilenetv3_large_100"),
        ("fcn-torchvision", "resnet50", "imagenet", "https://download.pytorch.org/models/resnet50-0676ba61.pth"),
        ("fcn-torchvision", "resnet50", "IMAGENET1K_V2", "https://download.pytorch.org/models/resnet50-11ad3fa6.pth"),
    ],
)
def test_what_a_tag_means(architecture: str, encoder: str, tag: str, said: str) -> None:
    spec = Network.model_validate({"architecture": architecture, "encoder": encoder, "encoder_weights": tag})
    assert spec.encoder_weights is not None and said in str(pretrained.place(spec, spec.encoder_weights))


@pytest.mark.parametrize(
    ("architecture", "encoder", "tag", "said"),
    [
        ("vit-linear", "tu-vit_small_patch14_dinov2", "imagenet", "It has lvd142m"),
        ("fpn", "tu-resnet18", "in1k", "or several"),
        ("fpn", "resnet18", "imagnet", "Did you mean 'imagenet'"),
        ("fpn", "tu-resnet19", "imagenet", "publishes none"),
        ("fpn", "tu-resnet18.nonsense_in1k", "imagenet", "tu-resnet18 has no weights named 'nonsense_in1k'"),
        ("fpn", "tu-resnet18.nonsense_in1k", "a1_in1k", "It has a1_in1k"),
        ("lraspp", "mobilenet_v3_large", "coco", "It has imagenet1k_v1, imagenet1k_v2"),
        ("mine:Net", None, "imagenet", "needs an encoder"),
    ],
)
def test_a_tag_that_nobody_knows(architecture: str, encoder: str | None, tag: str, said: str) -> None:
    spec = Network.model_validate({"architecture": architecture, "encoder": encoder, "encoder_weights": tag})
    assert spec.encoder_weights is not None
    with pytest.raises(ValueError, match=said) as caught:
        pretrained.place(spec, spec.encoder_weights)
    assert "{path: FILE}" in str(caught.value)


CLIP = {
    "pairs.0.student.encoder": "tu-convnext_base",
    "pairs.0.student.encoder_weights": "clip_laion2b",
    "train.normalize": "encoder",
}


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ({}, True),
        ({"pairs.0.student.encoder_weights": "in22k"}, False),
        (
            {"pairs.0.student.encoder": "tu-convnext_base.clip_laion2b", "pairs.0.student.encoder_weights": "default"},
            False,
        ),
        ({"pairs.0.student.encoder": "tu-convnext_base.clip_laion2b"}, False),
        ({"train.normalize": "dataset"}, False),
    ],
)
def test_statistics_of_the_tag_and_not_of_the_default(
    tmp_path: Path, served: Hub, more: dict[str, str], wrong: bool
) -> None:
    settings = [f"{key}={value}" for key, value in (CLIP | more).items()]
    with pytest.raises(ValueError) as caught:
        _ = harness.Bench(experiment(tmp_path, *settings), tmp_path).experiment
    said = "train.normalize: encoder gives the mean and standard deviation of tu-convnext_base, but clip_laion2b was trained with others. Write encoder: tu-convnext_base.clip_laion2b"
    assert (said in str(caught.value)) == wrong and ("which is not on this machine" in str(caught.value)) != wrong
    assert str(caught.value).startswith("pairs.0.student.encoder_weights: ") and "\n" not in str(caught.value)
