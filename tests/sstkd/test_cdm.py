"""The Contourlet Decomposition Module: padding, stacks, weighting."""

import pytest
import torch

from sstkd import CDM, contourlet
from sstkd.cdm import noise_deviations


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def padded(x, multiple):
    rows = torch.arange(-(-x.shape[-2] // multiple) * multiple).clamp(max=x.shape[-2] - 1)
    cols = torch.arange(-(-x.shape[-1] // multiple) * multiple).clamp(max=x.shape[-1] - 1)
    return x[..., rows, :][..., cols]


@pytest.mark.parametrize(("levels", "multiple"), [((0,), 2), ((2,), 2), ((3,), 4), ((3, 4), 8), ((1, 2, 3), 8)])
@pytest.mark.parametrize("hw", [(1, 1), (12, 12), (9, 17), (16, 24)])
@pytest.mark.parametrize("boundary", ["periodic", "toolbox"])
def test_the_bands_of_the_padded_map(levels, multiple, hw, boundary):
    cdm = CDM(levels, boundary=boundary)
    assert cdm.multiple == multiple
    x = random(2, 3, *hw)
    stacks = cdm(x)
    bands = [b for level in contourlet(padded(x, multiple), levels, boundary=boundary).bands for b in level]
    for stack in stacks:
        for band in stack.unbind(2):
            assert torch.equal(band, bands.pop(0))
    assert not bands


def test_stacks_of_the_default():
    shapes = [tuple(stack.shape) for stack in CDM()(random(1, 2, 64, 32))]
    assert shapes == [(1, 2, 4, 8, 8), (1, 2, 4, 16, 4), (1, 2, 8, 8, 16), (1, 2, 8, 32, 4)]


def test_a_constant_map_has_no_texture():
    for stack in CDM()(torch.full((2, 3, 10, 12), 7.0)):
        assert stack.abs().max() < 1e-5


def test_gradient_reaches_the_unpadded_map():
    x = random(1, 1, 3, 5).requires_grad_()
    for boundary in ("periodic", "toolbox"):
        assert torch.autograd.gradcheck(
            lambda v, b=boundary: tuple(CDM((1, 2), boundary=b, weighting="whitened")(v)), x
        )


@pytest.mark.parametrize("levels", [(3, 4), (0, 2), (1,)])
def test_whitened_bands_of_white_noise_have_unit_variance(levels):
    """Exactly: each coefficient's variance is the squared norm of its row of the transform, here of the whole matrix."""
    side, cdm = 48, CDM(levels, weighting="whitened")
    unit = torch.eye(side * side, dtype=torch.float64).view(-1, 1, side, side)
    for stack in cdm(unit):
        variance = stack.square().sum((0, 1))
        if levels == (1,):  # even and odd columns differ, for the bands' lattice is finer than the pyramid's
            variance = variance.unflatten(-1, (-1, 2)).mean(-1)
        # Filters longer than the map wrap around it.
        torch.testing.assert_close(variance, torch.ones_like(variance), rtol=0, atol=2e-2)
    equal = CDM(levels)(unit[:9])
    for a, b, deviation in zip(equal, cdm(unit[:9]), noise_deviations(cdm.plan), strict=True):
        torch.testing.assert_close(a, b * deviation[:, None, None])


def test_precision_and_parameters():
    with torch.autocast("cpu", torch.bfloat16):
        stacks = CDM(weighting="whitened")(torch.ones(1, 1, 8, 8, dtype=torch.bfloat16))
    assert all(stack.dtype == torch.float32 for stack in stacks)
    assert not list(CDM(weighting="whitened").parameters())
    assert not CDM(weighting="whitened").state_dict()


def test_refusals():
    with pytest.raises(ValueError, match=r"are \(\); one or more"):
        CDM(())
    with pytest.raises(ValueError, match=r"are \(3, 9\); .*from 0 to 8"):
        CDM((3, 9))
    with pytest.raises(ValueError, match="unknown pyramid filters"):
        CDM(pyramid="haar")
    with pytest.raises(ValueError, match="unknown weighting 'loud'; allowed: 'equal', 'whitened'"):
        CDM(weighting="loud")
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        CDM()(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match=r"not empty, got shape \(0, 3, 8, 8\)"):
        CDM()(torch.zeros(0, 3, 8, 8))
