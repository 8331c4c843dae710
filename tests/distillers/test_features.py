"""Losses on features against their equations in loops: fitnet, feature-kd, at, the pixel part of dsd, mgd, freekd."""

from itertools import combinations, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.distillers import METHODS
from harness.distillers._ops import random_mask
from harness.distillers.at import at_loss
from harness.distillers.dsd import psd_loss
from harness.distillers.freekd import haar
from tests.support import dense
from tests.support.dense import EXAMPLES, POSITIVE, TEMPERATURES, WEIGHTS, agree, scenes, unit


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# fitnet, feature-kd


@pytest.mark.parametrize("tap", ["decoder", "stage1"])
@EXAMPLES
@given(scene=scenes(), weight=POSITIVE, kd=WEIGHTS)
def test_fitnet(tap, scene, weight, kd):
    distiller = scene.build(METHODS["fitnet"], weight=weight, kd=kd, tap=tap)
    theirs = scene.theirs[tap]
    mapped = dense.resized(dense.adapted(scene, tap, distiller, bias=False, always=True), theirs.shape[-2:])
    loss = weight * (mapped - theirs).square().sum() / theirs.numel()
    scene.agree(distiller(scene.view), {"fitnet": loss, **dense.kd_of(scene, kd)}, *distiller.parameters())


@pytest.mark.parametrize("tap", ["decoder", "last"])
@EXAMPLES
@given(scene=scenes(), weight=POSITIVE)
def test_feature_kd(tap, scene, weight):
    distiller = scene.build(METHODS["feature-kd"], weight=weight, tap=tap)
    name = "stage2" if tap == "last" else tap
    theirs = scene.theirs[name]
    mapped = dense.resized(dense.adapted(scene, name, distiller, bias=False), theirs.shape[-2:])
    loss = weight * (mapped - theirs).square().sum() / theirs.numel()
    scene.agree(distiller(scene.view), {"feature": loss}, *distiller.parameters())


# at, dsd pixel-wise


def dense_attention(x, size):
    """(N, h, w) of length 1 per image."""
    energy = torch.zeros(len(x), 1, *x.shape[2:], dtype=torch.float64)
    for i, row, column in dense.places(x):
        energy[i, 0, row, column] = sum(v**2 for v in x[i, :, row, column]) / x.shape[1]
    energy = dense.resized(energy, size)
    return torch.stack([unit(image.flatten()).view(*size) for image in energy])


def dense_at(student, teacher):
    size = teacher.shape[-2:]
    difference = dense_attention(student, size) - dense_attention(teacher, size)
    return difference.square().sum() / (len(teacher) * size[0] * size[1])


@EXAMPLES
@given(
    scene=scenes(most=4),
    weight=POSITIVE,
    kd=WEIGHTS,
    taps=st.sampled_from([("decoder",), ("stage1", "decoder"), ("stage1", "stage2", "logits")]),
)
def test_at(scene, weight, kd, taps):
    distiller = scene.build(METHODS["at"], weight=weight, kd=kd, taps=taps)
    loss = weight * sum(dense_at(scene.ours[name], scene.theirs[name]) for name in taps)
    scene.agree(distiller(scene.view), {"at": loss, **dense.kd_of(scene, kd)})


def test_attention_of_a_map_that_is_zero():
    teacher, student = random(2, 3, 2, 5), torch.zeros(2, 4, 2, 5, dtype=torch.float64, requires_grad=True)
    loss = at_loss(student, teacher)
    assert loss.item() == pytest.approx(1 / 10, rel=1e-12), "the teacher's length 1 over ten positions"
    assert torch.autograd.grad(loss, student)[0].abs().max() == 0
    assert at_loss(student, torch.zeros_like(teacher)) == 0


def dense_psd(student, teacher):
    size = teacher[-1].shape[-2:]

    def residuals(maps):
        seen = [dense_attention(x, size) for x in maps]
        return [
            torch.stack([unit((b - a).flatten()) for a, b in zip(seen[n], seen[m], strict=True)])
            for n, m in combinations(range(len(maps)), 2)
        ]

    pairs = zip(residuals(student), residuals(teacher), strict=True)
    differences = torch.stack([a - b for a, b in pairs])
    return differences.square().sum() / differences.numel()


# Sides of two or more, without holes: where two layers agree everywhere the direction of their difference is rounding.
@EXAMPLES
@given(
    scene=scenes(least=2, flat=False),
    pixel=POSITIVE,
    kd=WEIGHTS,
    taps=st.sampled_from(
        [("last", "decoder", "logits"), ("stage1", "decoder"), ("stage1", "last", "decoder", "logits")]
    ),
)
def test_pixel_wise_similarity(scene, pixel, kd, taps):
    distiller = scene.build(METHODS["dsd"], pixel=pixel, category=0.0, kd=kd, taps=taps)
    names = ["stage2" if name == "last" else name for name in taps]
    loss = pixel * dense_psd([scene.ours[n] for n in names], [scene.theirs[n] for n in names])
    scene.agree(distiller(scene.view), {"psd": loss, **dense.kd_of(scene, kd)})


@pytest.mark.parametrize("hw", [(1, 4), (5, 1)])
@pytest.mark.parametrize("layers", [2, 3])
def test_pixel_wise_similarity_of_maps_one_wide(hw, layers):
    student = [random(2, 3 + k, *hw, seed=k).requires_grad_() for k in range(layers)]
    teacher = [random(2, 2 + k, *hw, seed=9 + k) for k in range(layers)]
    agree(psd_loss(student, teacher), dense_psd(student, teacher), student)


def test_pixel_wise_similarity_of_layers_that_agree_everywhere():
    one = random(2, 3, 3, 4)
    student = [one.clone().requires_grad_(), one.clone().requires_grad_()]
    teacher = [random(2, 3, 3, 4, seed=k) for k in (1, 2)]
    loss = psd_loss(student, teacher)
    assert loss.item() == pytest.approx(1 / 12, rel=1e-9), "a residual of zeros beside one of length 1"
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, student))


# mgd and the feature part of af-dcd


def generated(distiller, masked):
    first, second = (distiller.generator.get_submodule(name) for name in ("0", "2"))
    return dense.convolved(dense.convolved(masked, first.weight, first.bias).clamp(min=0), second.weight, second.bias)


def with_its_mask(scene, distiller):
    """The terms, and (N, 1, h, w) ones where the generator was shown something: `adapted` maps have no zero."""
    seen = []
    handle = distiller.generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    terms = distiller(scene.view)
    handle.remove()
    (shown,) = seen
    assert ((shown != 0).all(1) | (shown == 0).all(1)).all(), "a position is dropped as a whole"
    return terms, (shown != 0).any(1, keepdim=True).double()


@pytest.mark.parametrize("convention", ["mgd", "canonical"])
@EXAMPLES
@given(
    scene=scenes(flat=False),
    weight=POSITIVE,
    cwd=WEIGHTS,
    tau=TEMPERATURES,
    dropped=st.sampled_from([0.0, 0.3, 0.75]),
    tap=st.sampled_from(["last", "decoder"]),
)
def test_mgd(convention, scene, weight, cwd, tau, dropped, tap):
    parameters = {"weight": weight, "cwd": cwd, "tau": tau, "dropped": dropped, "tap": tap}
    distiller = scene.build(METHODS["mgd"], convention=convention, **parameters)
    terms, mask = with_its_mask(scene, distiller)
    name = "stage2" if tap == "last" else tap
    theirs = scene.theirs[name]
    assert mask.shape == (scene.batch, 1, *theirs.shape[-2:])
    assert dropped or mask.all()
    mapped = dense.resized(dense.adapted(scene, name, distiller, bias=True), theirs.shape[-2:])
    total = (generated(distiller, mapped * mask) - theirs).square().sum()
    expected = {"mgd": weight * total / (scene.batch if convention == "mgd" else theirs.numel())}
    if cwd:
        expected["cwd"] = cwd * dense.cwd(scene.matched("logits"), scene.theirs["logits"], tau)
    scene.agree(terms, expected, *distiller.parameters())


@pytest.mark.parametrize("convention", ["af-dcd", "canonical"])
@EXAMPLES
@given(scene=scenes(flat=False), feature=WEIGHTS, kd=WEIGHTS, dropped=st.sampled_from([0.0, 0.75]))
def test_reconstruction_of_af_dcd(convention, scene, feature, kd, dropped):
    parameters = {"feature": feature, "contrast": 0.0, "kd": kd, "dropped": dropped, "groups": 1}
    distiller = scene.build(METHODS["af-dcd"], convention=convention, **parameters)
    expected = {}
    if feature:
        terms, mask = with_its_mask(scene, distiller)
        theirs = scene.theirs["decoder"]
        mapped = dense.resized(dense.adapted(scene, "decoder", distiller, bias=True), theirs.shape[-2:])
        total = (generated(distiller, mapped * mask) - theirs).square().sum()
        expected["feature"] = feature * total / (scene.batch if convention == "af-dcd" else theirs.numel())
    else:
        assert not list(distiller.parameters())
        terms = distiller(scene.view)
    scene.agree(terms, expected | dense.kd_of(scene, kd), *distiller.parameters())


@EXAMPLES
@given(scene=scenes(most=5, flat=False), feature=POSITIVE, dropped=st.sampled_from([0.0, 0.75]))
def test_the_enhanced_projector_of_af_dcd_is_the_mean_of_two_branches(scene, feature, dropped):
    parameters = {"feature": feature, "contrast": 0.0, "dropped": dropped, "groups": 1, "enhanced_projector": True}
    distiller = scene.build(METHODS["af-dcd"], **parameters)
    terms, mask = with_its_mask(scene, distiller)
    theirs = scene.theirs["decoder"]
    own = dict(distiller.generator.named_parameters())

    def convolved(x, name):
        return dense.convolved(x, own[f"{name}.weight"], own[f"{name}.bias"])

    mapped = dense.resized(dense.adapted(scene, "decoder", distiller, bias=True), theirs.shape[-2:])
    first = convolved(mapped * mask, "hidden.0").clamp(min=0)
    second = convolved(first, "hidden.1").clamp(min=0)
    made = (convolved(first, "out.0") + convolved(second, "out.1")) / 2
    expected = {"feature": feature * (made - theirs).square().sum() / scene.batch}
    scene.agree(terms, expected, *distiller.parameters())
    width = theirs.shape[1]
    assert sum(p.numel() for p in distiller.generator.parameters()) == 4 * (9 * width * width + width)


@pytest.mark.parametrize("method", ["mgd", "af-dcd"])
def test_the_generator_sees_a_quarter_of_the_positions_and_others_in_another_step(method):
    masks = []
    for seed in range(2):
        scene = dense.plain(hw=(16, 25), seed=seed)
        masks.append(with_its_mask(scene, scene.build(METHODS[method]))[1])
        assert abs(masks[-1].mean() - 0.25) <= 4.5 * (0.25 * 0.75 / masks[-1].numel()) ** 0.5
    assert not torch.equal(*masks)


@pytest.mark.parametrize("dropped", [0.0, 0.1, 0.5, 0.75, 0.99])
def test_a_mask_drops_its_share_one_by_one(dropped):
    like = torch.empty(60, 7, 20, 25, dtype=torch.bfloat16)
    mask = random_mask(like, dropped, torch.Generator().manual_seed(0))
    assert mask.shape == (60, 1, 20, 25) and mask.dtype == like.dtype
    mask = mask.double()
    assert ((mask == 0) | (mask == 1)).all()
    # The share of one position over images, and of two neighbours dropped together, as independent draws have them.
    for event, chance in ((1 - mask, dropped), ((1 - mask[..., 1:]) * (1 - mask[..., :-1]), dropped**2)):
        deviation = (chance * (1 - chance) / event.numel()) ** 0.5
        assert abs(event.mean() - chance) <= 6 * deviation
    assert torch.equal(mask, random_mask(like, dropped, torch.Generator().manual_seed(0)).double())
    again = random_mask(like, dropped, torch.Generator().manual_seed(1)).double()
    assert torch.equal(mask, again) == (dropped == 0)


# freekd


def dense_haar(x):
    """The low-pass half of one level, and its bands along the height, the width and both."""
    n, c, h, w = x.shape
    wide = torch.zeros(n, c, h + h % 2, w + w % 2, dtype=torch.float64)
    wide[..., :h, :w] = x
    low, *bands = (torch.zeros(n, c, wide.shape[2] // 2, wide.shape[3] // 2, dtype=torch.float64) for _ in range(4))
    for y, u in product(range(low.shape[2]), range(low.shape[3])):
        a, b = wide[..., 2 * y, 2 * u], wide[..., 2 * y, 2 * u + 1]
        c, d = wide[..., 2 * y + 1, 2 * u], wide[..., 2 * y + 1, 2 * u + 1]
        low[..., y, u] = (a + b + c + d) / 2
        bands[0][..., y, u] = (a + b - c - d) / 2
        bands[1][..., y, u] = (a - b + c - d) / 2
        bands[2][..., y, u] = (a - b - c + d) / 2
    return low, bands


def dense_freekd(student, teacher, tokens):
    total = torch.zeros((), dtype=torch.float64)
    for level in (1, 2, 3):
        student, ours = dense_haar(student)
        teacher, theirs = dense_haar(teacher)
        mask = torch.zeros(len(teacher), *teacher.shape[2:], dtype=torch.float64)
        for i, y, x in dense.places(teacher):
            detail = sum(band[i, :, y, x] for band in theirs)
            mask[i, y, x] = sum(torch.sigmoid((token * detail).sum()) for token in tokens[level]) / len(tokens[level])
        difference = torch.stack([(a - b).abs() for a, b in zip(ours, theirs, strict=True)])
        total = total + (mask[None, :, None] * difference).sum() / difference.numel()
    return total


@pytest.mark.parametrize("train_tokens", [False, True])
@EXAMPLES
@given(scene=scenes(most=9), weight=POSITIVE, tokens=st.integers(1, 3), tap=st.sampled_from(["decoder", "stage1"]))
def test_freekd(train_tokens, scene, weight, tokens, tap):
    parameters = {"weight": weight, "tokens": tokens, "train_tokens": train_tokens, "tap": tap}
    distiller = scene.build(METHODS["freekd"], **parameters)
    assert distiller.tokens.shape == (4, tokens, scene.teacher[tap][0])
    distiller.tokens.data.mul_(100)  # they start so small that all masks are 1/2
    assert ("tokens" in dict(distiller.named_parameters())) == train_tokens
    theirs = scene.theirs[tap]
    mapped = dense.resized(dense.adapted(scene, tap, distiller, bias=False), theirs.shape[-2:])
    loss = weight * dense_freekd(mapped, theirs, distiller.tokens)
    scene.agree(distiller(scene.view), {"freekd": loss}, *distiller.parameters())


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_haar_of_every_pixel_is_an_orthonormal_matrix(levels):
    low, bands = haar(torch.eye(64, dtype=torch.float64).view(64, 1, 8, 8), levels)
    matrix = torch.cat([low.flatten(1), *(band.flatten(1) for band in bands)], 1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(64, dtype=torch.float64), rtol=0, atol=1e-14)


@pytest.mark.parametrize("hw", [(1, 1), (1, 5), (7, 1), (5, 7), (8, 2)])
def test_haar_orders_its_bands_and_continues_odd_sides_by_zeros(hw):
    x = random(2, 3, *hw)
    low, found = haar(x, 3)
    for level in range(3):
        x, bands = dense_haar(x)
        torch.testing.assert_close(found[level], torch.stack(bands, 2), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(low, x, rtol=1e-12, atol=1e-14)
