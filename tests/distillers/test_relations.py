"""Losses on relations against their equations in loops: skd, ifvd, af-dcd's contrast, cirkd within a batch."""

from itertools import product
from unittest.mock import patch

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.distillers import METHODS, _relation
from harness.distillers._ops import nearest_labels
from harness.distillers._relation import row_kl
from harness.distillers.af_dcd import omni_contrast
from harness.distillers.cirkd import authors_pool, minibatch_loss
from harness.distillers.ifvd import ifv_loss
from harness.distillers.skd import pairwise_loss
from tests.support import dense
from tests.support.dense import EXAMPLES, POSITIVE, WEIGHTS, agree, mean, scenes, unit


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# skd


def dense_pairwise(student, teacher, window, constant_norms):
    def nodes(x, i):
        corners = product(range(0, x.shape[2], window[0]), range(0, x.shape[3], window[1]))
        cells = [x[i, :, y : y + window[0], u : u + window[1]] for y, u in corners]
        return [torch.stack([channel.max() for channel in cell]) for cell in cells]

    def similarities(x, i):
        if constant_norms:  # with 1e-8 beside the norm, as published
            units = [f / (f.detach().square().sum().sqrt() + 1e-8) for f in nodes(x, i)]
        else:
            units = [unit(f) for f in nodes(x, i)]
        return torch.stack([(a * b).sum() for a in units for b in units])

    return mean((similarities(student, i) - similarities(teacher, i)).square().mean() for i in range(len(teacher)))


@pytest.mark.parametrize("convention", ["skd", "canonical", "cirkd"])
@EXAMPLES
@given(
    scene=scenes(),
    pixel=WEIGHTS,
    pairwise=WEIGHTS,
    scale=st.sampled_from([0.1, 0.25, 0.5, 0.7, 1.0]),
    tap=st.sampled_from(["decoder", "stage1"]),
)
def test_skd(convention, scene, pixel, pairwise, scale, tap):
    parameters = {"pixel": pixel, "pairwise": pairwise, "holistic": 0.0, "scale": scale, "tap": tap}
    distiller = scene.build(METHODS["skd"], convention=convention, **parameters)
    assert not list(distiller.parameters()) and distiller.own_optimizers() == ()
    expected = {}
    if pixel:
        reduction = "skd" if convention == "skd" else "canonical"
        loss = dense.kd(scene.matched("logits"), scene.theirs["logits"], 1.0, reduction)
        expected["pixel"] = pixel * loss
    if pairwise:
        window = tuple(max(1, int(side * scale)) for side in scene.teacher[tap][1:])
        window = (2, 2) if convention == "cirkd" else window
        loss = dense_pairwise(scene.matched(tap), scene.theirs[tap], window, constant_norms=convention != "cirkd")
        expected["pairwise"] = pairwise * loss
    scene.agree(distiller(scene.view), expected)


def test_the_last_window_is_cut_at_the_border():
    """17 x 23 at half is windows of 8 x 11 and three by three nodes, the last of a single position."""
    student, teacher = torch.ones(1, 2, 17, 23, dtype=torch.float64), torch.zeros(1, 3, 17, 23, dtype=torch.float64)
    student[:, 0, 16, 22], student[:, 1, 16, 22] = -5.0, 0.0
    # 8 x 8 pairs of equal nodes, the corner with itself, and with the others at 135 degrees: cosine^2 1/2.
    assert pairwise_loss(student, teacher).item() == pytest.approx((64 + 1 + 16 / 2) / 81, rel=1e-7)


@pytest.mark.parametrize("method", ["skd", "ifvd"])
def test_the_holistic_term_is_the_critics_judgement(method):
    name = "holistic" if method == "skd" else "adversarial"
    scene = dense.plain(hw=(5, 6))
    rest = {"pixel": 0.0, "pairwise": 0.0} if method == "skd" else {"kd": 0.0}
    distiller = scene.build(METHODS[method], critic_width=2, **{name: 0.3}, **rest)
    (own,) = distiller.own_optimizers()
    assert {id(p) for p in own.parameters} == {id(p) for p in distiller.parameters()}
    distiller.eval()  # the critic's running statistics and power iteration stand still
    terms = distiller(scene.view)
    assert list(terms) == ([] if method == "skd" else ["ifv"]) + ["adversarial", "critic"]
    judged = -0.3 * distiller.adversary.critic(scene.ours["logits"]).mean()
    agree(terms["adversarial"], judged, [scene.ours["logits"]])
    assert torch.autograd.grad(terms["critic"], scene.ours["logits"], allow_unused=True) == (None,)


# ifvd


def dense_ifv(student, teacher, labels):
    """Labels (N, h, w), -1 where ignored."""

    def cosine(a, b):
        return (unit(a) * unit(b)).sum()

    total = torch.zeros((), dtype=torch.float64)
    for i, y, x in dense.places(teacher):
        label = labels[i, y, x]
        if label < 0:
            continue
        c = []
        for maps in (student, teacher):
            members = [maps[i, :, v, u] for v, u in product(*map(range, maps.shape[2:])) if labels[i, v, u] == label]
            c.append(cosine(maps[i, :, y, x], sum(members) / len(members)))
        total = total + (c[0] - c[1]) ** 2
    return (total + 0 * student.sum()) / labels.numel()


@pytest.mark.parametrize("convention", ["ifvd", "canonical"])
@EXAMPLES
@given(scene=scenes(most=4), weight=POSITIVE, kd=WEIGHTS, tap=st.sampled_from(["decoder", "last"]))
def test_ifvd(convention, scene, weight, kd, tap):
    parameters = {"weight": weight, "kd": kd, "adversarial": 0.0, "tap": tap}
    distiller = scene.build(METHODS["ifvd"], convention=convention, **parameters)
    assert not list(distiller.parameters()) and distiller.own_optimizers() == ()
    name = "stage2" if tap == "last" else tap
    theirs = scene.theirs[name]
    loss = weight * dense_ifv(scene.matched(name), theirs, scene.classes_at(theirs.shape[-2:]))
    scene.agree(distiller(scene.view), {"ifv": loss, **dense.kd_of(scene, kd, 1.0, convention)})


def test_features_of_ignored_pixels_do_not_matter():
    student, teacher = random(2, 3, 3, 4).requires_grad_(), random(2, 5, 3, 4, seed=1)
    labels = torch.randint(0, 3, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    away = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    for ignored in (255, 3, -1):  # the ignored label, and what is no class
        given = labels.masked_fill(away, ignored)
        before = ifv_loss(student, teacher, given, 3)
        (gradient,) = torch.autograd.grad(before, student)
        assert (gradient.abs().amax(1) == 0)[away].all() and (gradient.abs().amax(1) > 0)[~away].any()
        changed = [torch.where(away[:, None], 100 * random(*x.shape, seed=2), x) for x in (student, teacher)]
        assert ifv_loss(*changed, given, 3).item() == pytest.approx(before.item(), rel=1e-12)
    assert ifv_loss(student, teacher, labels, 3, ignore_index=0) != ifv_loss(student, teacher, labels, 3)


def test_an_ignored_position_with_a_zero_feature_counts_nothing_and_1_in_the_authors_code():
    """Theirs: where no class is, the feature is compared with itself; the cosine of a zero vector is 0."""
    student, teacher = random(1, 3, 2, 3), random(1, 3, 2, 3, seed=1)
    labels = torch.full((1, 2, 3), 255)
    student[0, :, 1, 2] = 0.0
    itself = [torch.nn.functional.cosine_similarity(x, x, dim=1) for x in (student, teacher)]
    assert (itself[0] - itself[1]).square().mean().item() == pytest.approx(1 / 6)
    assert ifv_loss(student, teacher, labels, 3) == 0


def test_ifv_without_labels_is_zero():
    student, teacher = random(2, 3, 3, 4).requires_grad_(), random(2, 5, 3, 4, seed=1)
    loss = ifv_loss(student, teacher, torch.full((2, 6, 8), 255), 3)
    assert loss == 0
    assert torch.autograd.grad(loss, student)[0].abs().max() == 0


# af-dcd, omni-contrast


def dense_contrast(student, teacher, groups, pool, patch, tau):
    n, channels, height, width = teacher.shape
    window = (min(pool, height), min(pool, width))

    def pooled(x):
        """(N, groups, C / groups, h, w): windows that are cut at the border are left out."""
        h, w = height // window[0], width // window[1]
        out = torch.zeros(n, channels, h, w, dtype=torch.float64)
        for i, c, y, u in product(range(n), range(channels), range(h), range(w)):
            top, left = y * window[0], u * window[1]
            out[i, c, y, u] = x[i, c, top : top + window[0], left : left + window[1]].max()
        return out.view(n, groups, channels // groups, h, w)

    ours, theirs = pooled(student), pooled(teacher)
    h, w = ours.shape[-2:]
    high, wide = min(patch[0], h), min(patch[1], w)
    total, positions = torch.zeros((), dtype=torch.float64), 0
    for i, top, left in product(range(n), range(0, h - high + 1, high), range(0, w - wide + 1, wide)):
        cells = list(product(range(top, top + high), range(left, left + wide)))
        positions += len(cells)
        for g in range(groups):
            others = [theirs[i, k, :, v, u] for v, u in cells for k in range(groups) if k != g]
            for y, x in cells:
                own = (ours[i, g, :, y, x] - theirs[i, g, :, y, x]).abs().sum() / tau
                away = torch.stack([(ours[i, g, :, y, x] - t).abs().sum() / tau for t in others])
                # e^-own / (e^-own + sum of e^-away), both divided by e^-own
                total = total + torch.log(1 + torch.exp(own - away).sum())
    return total / positions


@EXAMPLES
@given(
    data=st.data(),
    scene=scenes(most=4, flat=False),
    pool=st.integers(1, 3),
    patch=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    tau=st.sampled_from([0.3, 1.0, 4.0]),
)
def test_omni_contrast(data, scene, pool, patch, tau):
    teacher = scene.theirs["decoder"]
    channels = teacher.shape[1]
    groups = data.draw(st.sampled_from([g for g in range(2, channels + 1) if channels % g == 0] or [1]))
    student = scene.random(*teacher.shape).requires_grad_()
    found = omni_contrast(student, teacher, groups, pool, patch, tau)
    if groups == 1:
        assert found == 0 and torch.autograd.grad(found, student)[0].abs().max() == 0, "there are no negatives"
    else:
        agree(found, dense_contrast(student, teacher, groups, pool, patch, tau), [student])


@pytest.mark.parametrize(
    ("hw", "pool", "patch"),
    [((9, 11), 2, (2, 3)), ((1, 7), 1, (4, 4)), ((7, 1), 3, (1, 1)), ((1, 1), 4, (4, 4)), ((5, 5), 2, (4, 4))],
)
def test_omni_contrast_at_borders(hw, pool, patch):
    """Patches that do not fit are left out; a map that is smaller than a window or a patch is one."""
    student, teacher = random(2, 6, *hw).requires_grad_(), random(2, 6, *hw, seed=1)
    found = omni_contrast(student, teacher, 3, pool, patch, 0.5)
    agree(found, dense_contrast(student, teacher, 3, pool, patch, 0.5), [student])


@EXAMPLES
@given(scene=scenes(most=4, flat=False), contrast=POSITIVE, feature=WEIGHTS)
def test_af_dcd(scene, contrast, feature):
    groups = scene.teacher["decoder"][0]
    parameters = {"contrast": contrast, "feature": feature, "groups": groups, "pool": 1, "patch": (2, 2), "tau": 2.0}
    distiller = scene.build(METHODS["af-dcd"], dropped=0.0, **parameters)
    made = []
    distiller.generator.register_forward_hook(lambda module, inputs, out: made.append(out))
    terms = distiller(scene.view)
    assert list(terms) == (["feature"] if feature else []) + ["contrast"]
    if groups > 1:
        expected = contrast * dense_contrast(made[0], scene.theirs["decoder"], groups, 1, (2, 2), 2.0)
        agree(terms["contrast"], expected, [scene.ours["decoder"], *distiller.parameters()])


@pytest.mark.parametrize("hw", [(1, 1), (4, 6), (5, 3)])
def test_omni_contrast_without_pooling(hw):
    student, teacher = random(2, 6, *hw).requires_grad_(), random(2, 6, *hw, seed=1)
    found = omni_contrast(student, teacher, 3, 0, (2, 2), 0.5)
    agree(found, dense_contrast(student, teacher, 3, 1, (2, 2), 0.5), [student])
    distiller = dense.plain(hw=(4, 4)).build(METHODS["af-dcd"], pool=0)
    assert distiller.pool == 0


# cirkd, within the batch


def dense_row_kl(anchors, keys, teacher, teacher_keys, temperature, groups=1):
    rows = []
    for i, group in product(range(len(anchors)), range(groups)):
        count = len(keys) // groups
        own = range(group * count, (group + 1) * count)
        ours = torch.stack([(anchors[i] * keys[j]).sum() for j in own]) / temperature
        theirs = torch.stack([(teacher[i] * teacher_keys[j]).sum() for j in own]) / temperature
        rows.append(dense.divergence(theirs, ours))
    return mean(rows)


@EXAMPLES
@given(
    rows=st.integers(1, 7),
    count=st.integers(1, 6),
    groups=st.integers(1, 3),
    widths=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    elements=st.integers(1, 40),
    temperature=st.sampled_from([0.1, 1.0, 3.0]),
)
def test_row_kl_in_blocks_of_any_size(rows, count, groups, widths, elements, temperature):
    own, other = widths
    anchors, keys = random(rows, own).requires_grad_(), random(groups * count, own, seed=1).requires_grad_()
    teacher, teacher_keys = random(rows, other, seed=2), random(groups * count, other, seed=3)
    given = (anchors, keys, teacher, teacher_keys)
    before = [x.detach().clone() for x in given]
    expected = dense_row_kl(*given, temperature, groups)
    with patch.multiple(_relation, _ELEMENTS={"cpu": elements}, _ROWS=1):
        agree(row_kl(*given, temperature, groups), expected, [anchors, keys])
        for leaves in ([anchors], [keys]):  # one of them alone has a gradient
            chosen = [x if any(x is leaf for leaf in leaves) else x.detach() for x in given]
            agree(row_kl(*chosen, temperature, groups), expected, leaves)
        assert not row_kl(*before, temperature, groups).requires_grad
        three = torch.autograd.grad(3 * row_kl(*given, temperature, groups), anchors)[0]
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
    torch.testing.assert_close(three, 3 * torch.autograd.grad(expected, anchors)[0], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("elements", [1, 12, 2**20])
@pytest.mark.parametrize("groups", [1, 2])
def test_row_kl_of_weighted_anchors_is_that_of_the_anchors_themselves(elements, groups):
    """Weight 0 leaves an anchor out; of every block, of all but one, of all."""
    anchors, keys = random(6, 3).requires_grad_(), random(12, 3, seed=1).requires_grad_()
    teacher, teacher_keys = random(6, 4, seed=2), random(12, 4, seed=3)
    for kept in ([0, 2, 5], [3], range(6)):
        share = torch.zeros(6, dtype=torch.float64)
        share[list(kept)] = 1 / len(kept)
        few = list(kept)
        expected = dense_row_kl(anchors[few], keys, teacher[few], teacher_keys, 0.5, groups)
        with patch.multiple(_relation, _ELEMENTS={"cpu": elements}, _ROWS=1):
            agree(row_kl(anchors, keys, teacher, teacher_keys, 0.5, groups, share), expected, [anchors, keys])
    none = row_kl(anchors, keys, teacher, teacher_keys, 0.5, groups, torch.zeros(6, dtype=torch.float64))
    assert none == 0 and all((g == 0).all() for g in torch.autograd.grad(none, [anchors, keys]))


@pytest.mark.parametrize("elements", [1, 12, 13, 24, 30, 2**20])
@pytest.mark.parametrize("groups", [1, 2])
def test_row_kl_by_finite_differences(elements, groups):
    given = [random(5, 3).requires_grad_(), random(12, 3, seed=1).requires_grad_(), random(5, 4, seed=2)]
    given.append(random(12, 4, seed=3))
    with patch.multiple(_relation, _ELEMENTS={"cpu": elements}, _ROWS=1):
        assert torch.autograd.gradcheck(lambda *x: row_kl(*x, 0.5, groups), given)
        same = random(4, 3).requires_grad_()
        assert torch.autograd.gradcheck(lambda x: row_kl(x, x, *2 * (random(4, 2, seed=1),), 0.5, groups), same)


def test_row_kl_has_no_gradient_for_the_teacher_and_none_of_second_order():
    given = [random(4, 3, seed=i).requires_grad_() for i in range(4)]
    loss = row_kl(*given, 1.0)
    loss.backward(retain_graph=True)
    first = [x.grad.clone() for x in given[:2]]
    assert given[2].grad is None and given[3].grad is None
    loss.backward()
    for x, once in zip(given, first, strict=False):
        torch.testing.assert_close(x.grad, 2 * once)
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(weight * row_kl(*given, 1.0), given[0], create_graph=True)[0].sum()
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.backward()


def test_row_kl_of_peaked_rows_is_the_gap_of_their_peaks():
    """The teacher's row has all its mass where the student's has e^-2000."""
    anchors, keys = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.eye(2)
    loss = row_kl(anchors, keys, torch.tensor([[0.0, 1.0]]), keys, 1 / 2000)
    assert loss.item() == pytest.approx(2000)
    assert torch.autograd.grad(loss, anchors)[0].isfinite().all()


def dense_minibatch(student, teacher, tau, pool=1):
    def units(x, i):
        corners = product(range(0, x.shape[2], pool), range(0, x.shape[3], pool))
        return torch.stack([unit(x[i, :, y : y + pool, u : u + pool].mean((1, 2))) for y, u in corners])

    rows = []
    for i, j in product(range(len(teacher)), repeat=2):
        ours, theirs = (units(x, i) @ units(x, j).T / tau for x in (student, teacher))
        rows.extend(dense.divergence(p, q) for p, q in zip(theirs, ours, strict=True))
    return mean(rows)


@pytest.mark.parametrize(
    ("height", "width", "pool"), [(256, 256, 4), (257, 1000, 4), (255, 1000, 1), (1000, 255, 1), (8, 8, 1)]
)
def test_the_authors_pool_from_256_positions_a_side_on(height, width, pool):
    assert authors_pool(height, width) == pool


def test_cirkd_pools_large_maps_as_the_authors_do():
    """4 x 4 averages, of what there is at the border; in plain float64."""
    student, teacher = random(1, 2, 257, 256).requires_grad_(), random(1, 3, 257, 256, seed=1)
    scene = dense.plain(hw=(4, 4))
    distiller = scene.build(METHODS["cirkd"], batch=2.0, pixel=0.0, region=0.0, kd=0.0, tau=0.5, auto_pool=True)
    found = distiller(scene.shown(decoder=(student, teacher)))["batch"]

    def rows(x):
        sums = torch.nn.functional.pad(x, (0, 0, 0, 3)).view(1, x.shape[1], 65, 4, 64, 4).sum((3, 5))
        sizes = torch.full((65, 1), 16.0, dtype=torch.float64)
        sizes[-1] = 4.0  # the last window has one row
        f = (sums / sizes)[0].flatten(1)
        f = f / f.square().sum(0).sqrt()
        return (f.T @ f / 0.5).log_softmax(1)

    p, q = rows(teacher), rows(student)
    want = 2.0 * (p.exp() * (p - q)).sum() / len(p)
    agree(found, want, [student])


def test_small_maps_are_not_pooled():
    scene = dense.plain(hw=(5, 6))
    losses = []
    for auto_pool in (False, True):
        distiller = scene.build(METHODS["cirkd"], pixel=0.0, region=0.0, kd=0.0, auto_pool=auto_pool)
        losses.append(distiller(scene.view)["batch"])
    assert torch.equal(*losses)


@EXAMPLES
@given(
    scene=scenes(most=4),
    batch=WEIGHTS,
    kd=WEIGHTS,
    pool=st.sampled_from([1, 1, 2, 3]),
    tau=st.sampled_from([0.1, 1.0]),
    tap=st.sampled_from(["decoder", "stage1"]),
)
def test_cirkd_within_the_batch(scene, batch, kd, pool, tau, tap):
    parameters = {"batch": batch, "pixel": 0.0, "region": 0.0, "kd": kd, "pool": pool, "tau": tau, "tap": tap}
    distiller = scene.build(METHODS["cirkd"], **parameters)
    assert not list(distiller.parameters()) and not list(distiller.buffers())
    expected = {"batch": batch * dense_minibatch(scene.matched(tap), scene.theirs[tap], tau, pool)} if batch else {}
    scene.agree(distiller(scene.view), expected | dense.kd_of(scene, kd))


def test_one_position_and_one_image_relate_to_nothing():
    student, teacher = random(1, 3, 1, 1).requires_grad_(), random(1, 5, 1, 1, seed=1)
    loss = minibatch_loss(student, teacher, 0.1)
    assert loss == 0 and torch.autograd.grad(loss, student)[0].abs().max() == 0


@pytest.mark.parametrize("pool", [1, 2])
def test_half_precision_maps_are_averaged_in_float32(pool):
    student, teacher = (random(2, 6, 7, 5, seed=i).bfloat16() for i in range(2))
    found = minibatch_loss(student, teacher, 0.1, pool)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(minibatch_loss(student.double(), teacher.double(), 0.1, pool).item(), rel=1e-5)


@pytest.mark.parametrize(("before", "after"), [(360, 129), (7, 3), (3, 7), (1, 4), (5, 1), (512, 64)])
def test_the_nearest_label_is_picked_in_exact_arithmetic(before, after):
    labels = torch.arange(before)
    expected = [row * before // after for row in range(after)]
    tall = nearest_labels(labels.view(1, -1, 1), torch.empty(1, 2, after, 1))
    wide = nearest_labels(labels.view(1, 1, -1), torch.empty(1, 2, 1, after))
    assert tall.flatten().tolist() == wide.flatten().tolist() == expected
