"""What networks see of an image: normalisation by dataset, by each network's encoder, and as in the papers."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch

from harness.datasets import DATASETS
from harness.experiment.spec import Network, NetworkInput
from harness.models.inputs import CAFFE_MEAN, IMAGENET, input_statistics
from harness.training.batches import evaluation_batches, to_batch
from harness.training.build import converted, for_inputs
from harness.training.ranks import Ranks


@pytest.fixture(scope="module")
def data():
    return DATASETS["texmosaic"](None, size=32, train=2, dev=1, val=1)


def of(encoder):
    return Network(architecture="fpn", encoder=encoder)


def shown(data):
    """The first val image as a network gets it, (3, H, W)."""
    (batch,) = evaluation_batches(data.val, data.info, Ranks(torch.device("cpu")), 1)
    return batch.image[0]


def test_statistics_are_those_of_the_pretraining():
    assert input_statistics("resnet18") == IMAGENET
    assert input_statistics("xception") == ((127.5,) * 3, (127.5,) * 3)
    mean, std = input_statistics("tu-vit_base_patch16_224")
    record = timm.get_pretrained_cfg("vit_base_patch16_224")
    np.testing.assert_allclose((mean, std), 255 * np.array([record.mean, record.std]))
    assert mean != IMAGENET[0]
    np.testing.assert_allclose(input_statistics("tu-resnet18d"), IMAGENET)


def test_each_choice_by_its_formula(data):
    raw = torch.from_numpy(data.val[0][0]).permute(2, 0, 1).double()
    for how, encoder in (("dataset", "resnet18"), ("encoder", "resnet18"), ("encoder", "xception")):
        mean, std = (data.info.mean, data.info.std) if how == "dataset" else input_statistics(encoder)
        want = (raw - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        torch.testing.assert_close(shown(for_inputs(data, how, of(encoder))).double(), want, rtol=1e-5, atol=1e-5)
    colours = replace(
        data, val=[(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8), data.val[0][1])]
    )
    raw = torch.from_numpy(colours.val[0][0]).permute(2, 0, 1).double()
    want = (raw - torch.tensor(CAFFE_MEAN).view(3, 1, 1)).flip(0)  # blue first
    torch.testing.assert_close(
        shown(for_inputs(colours, "bgr-mean", of("resnet18"))).double(), want, rtol=1e-5, atol=1e-4
    )


def test_a_teacher_with_other_statistics_sees_its_own(data):
    student, teacher = (for_inputs(data, "encoder", of(name)).info for name in ("resnet18", "xception"))
    image = shown(for_inputs(data, "encoder", of("resnet18")))[None]
    want = shown(for_inputs(data, "encoder", of("xception")))[None]
    torch.testing.assert_close(converted(image, student, teacher), want, rtol=1e-5, atol=1e-5)
    assert converted(image, student, student) is image


def test_the_papers_statistics_are_the_same_for_both_networks(data):
    student, teacher = (for_inputs(data, "bgr-mean", of(name)).info for name in ("resnet18", "xception"))
    image = torch.zeros(1, 3, 4, 4)
    assert converted(image, student, teacher) is image


def test_a_network_that_says_how_it_wants_its_images(data):
    """Its own statistics and order of colours hold, whatever the recipe says, and convert into the other network's."""
    wants = NetworkInput(mean=(0.5, 0.25, 0.75), std=(0.5, 0.25, 0.125), bgr=True)
    network = Network(architecture="mine:Net", input=wants)
    colours = replace(
        data, val=[(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8), data.val[0][1])]
    )
    raw = torch.from_numpy(colours.val[0][0]).permute(2, 0, 1).double() / 255
    want = ((raw - torch.tensor(wants.mean).view(3, 1, 1)) / torch.tensor(wants.std).view(3, 1, 1)).flip(0)
    own, other = (for_inputs(colours, how, n) for how, n in (("bgr-mean", network), ("encoder", of("resnet18"))))
    torch.testing.assert_close(shown(own).double(), want, rtol=1e-5, atol=1e-5)
    for seen, wanted in ((own, other), (other, own)):
        found = converted(shown(seen)[None], seen.info, wanted.info)
        torch.testing.assert_close(found, shown(wanted)[None], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("how", ["dataset", "encoder", "bgr-mean"])
def test_the_table_on_a_cpu_gives_the_bits_of_the_formula(data, how, layout):
    info = for_inputs(data, how, of("resnet18")).info
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 9, 70, 3), dtype=np.uint8))
    got = to_batch(image, image[..., 0], info, torch.device("cpu"), layout)
    x = image.permute(0, 3, 1, 2).float()
    x = (x - torch.tensor(info.mean).view(1, 3, 1, 1)) / torch.tensor(info.std).view(1, 3, 1, 1)
    want = x.flip(1) if how == "bgr-mean" else x
    assert torch.equal(got.image, want) and got.image.is_contiguous(memory_format=layout)
    assert got.label.dtype == torch.int64
