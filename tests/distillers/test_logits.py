"""Losses on logits against their equations in loops: kd, cwd, dist, the category part of dsd, kt."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.distillers import METHODS
from harness.distillers._ops import cwd_loss, kd_loss
from harness.distillers.dist import correlation
from harness.distillers.dsd import csd_loss
from harness.distillers.kt import kt_loss
from tests.support import dense
from tests.support.dense import EXAMPLES, POSITIVE, TEMPERATURES, WEIGHTS, agree, mean, scenes, unit


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# kd


@pytest.mark.parametrize("convention", ["canonical", "skd", "ifvd", "mmrazor"])
@EXAMPLES
@given(scene=scenes(), weight=POSITIVE, temperature=TEMPERATURES)
def test_kd(convention, scene, weight, temperature):
    if convention == "skd":
        temperature = 1.0
    distiller = scene.build(METHODS["kd"], weight=weight, temperature=temperature, convention=convention)
    scene.agree(distiller(scene.view), dense.kd_of(scene, weight, temperature, convention))


@EXAMPLES
@given(scene=scenes(), temperature=TEMPERATURES)
def test_kd_loss_as_skd_has_it_is_a_cross_entropy_at_any_temperature(scene, temperature):
    student, teacher = scene.matched("logits"), scene.theirs["logits"]
    found = kd_loss(student, teacher, temperature, "skd")
    agree(found, dense.kd(student, teacher, temperature, "skd"), [scene.ours["logits"]])


def test_kd_of_a_student_that_is_the_teacher_is_zero_but_for_the_entropy():
    teacher = random(2, 5, 3, 4)
    student = teacher.clone().requires_grad_()
    for convention in ("canonical", "ifvd", "mmrazor"):
        assert kd_loss(student, teacher, 2.0, convention).item() == pytest.approx(0, abs=1e-15)
    loss = kd_loss(student, teacher, 1.0, "skd")
    entropy = sum(dense.cross_entropy(teacher[i, :, y, x], teacher[i, :, y, x]) for i, y, x in dense.places(teacher))
    assert loss.item() == pytest.approx(entropy.item() / 12, rel=1e-12)
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-15


# cwd


@pytest.mark.parametrize("convention", ["canonical", "cirkd", "mmseg"])
@EXAMPLES
@given(scene=scenes(), logits=WEIGHTS, feature=WEIGHTS, tau=TEMPERATURES, tap=st.sampled_from(["decoder", "last"]))
def test_cwd(convention, scene, logits, feature, tau, tap):
    distiller = scene.build(METHODS["cwd"], logits=logits, feature=feature, tau=tau, tap=tap, convention=convention)
    compare = dense.cross_entropy if convention == "mmseg" else dense.divergence
    expected = {}
    if logits:
        expected["cwd"] = logits * dense.cwd(scene.matched("logits"), scene.theirs["logits"], tau, compare)
    if feature:
        name = "stage2" if tap == "last" else tap
        theirs = scene.theirs[name]
        mapped = dense.adapted(scene, name, distiller, bias=convention == "mmseg")
        own = None if convention == "canonical" else scene.student[name][0]
        loss = dense.cwd(dense.resized(mapped, theirs.shape[-2:]), theirs, tau, compare, own)
        expected["cwd_feature"] = feature * loss
    else:
        assert not list(distiller.parameters())
    scene.agree(distiller(scene.view), expected, *distiller.parameters())


@pytest.mark.parametrize("convention", ["cirkd", "mmseg"])
def test_cwd_without_a_width_of_its_own_divides_by_the_maps(convention):
    student, teacher = random(2, 3, 2, 5).requires_grad_(), random(2, 3, 2, 5, seed=1)
    compare = dense.cross_entropy if convention == "mmseg" else dense.divergence
    agree(cwd_loss(student, teacher, 2.0, convention), dense.cwd(student, teacher, 2.0, compare), [student])


# dist


def pearson(x, y):
    """Of two vectors, with the authors' 1e-8 beside the product of the lengths."""
    x, y = x - x.mean(), y - y.mean()
    lengths = [v.square().sum().sqrt() if v.detach().any() else v.sum() for v in (x, y)]
    return (x * y).sum() / (lengths[0] * lengths[1] + 1e-8)


def dense_dist(student, teacher, tau):
    def distribution(logits):
        p = torch.zeros_like(logits)
        for i, y, x in dense.places(logits):
            p[i, :, y, x] = dense.log_softmax(logits[i, :, y, x] / tau).exp()
        return p

    p, q = distribution(student), distribution(teacher)
    inter = 1 - mean(pearson(p[i, :, y, x], q[i, :, y, x]) for i, y, x in dense.places(p))
    intra = 1 - mean(pearson(p[:, k].flatten(), q[:, k].flatten()) for k in range(p.shape[1]))
    return tau**2 * inter, tau**2 * intra


@EXAMPLES
@given(scene=scenes(flat=False), inter=WEIGHTS, intra=WEIGHTS, tau=TEMPERATURES)
def test_dist(scene, inter, intra, tau):
    first, second = dense_dist(scene.matched("logits"), scene.theirs["logits"], tau)
    expected = ({"inter": inter * first} if inter else {}) | ({"intra": intra * second} if intra else {})
    distiller = scene.build(METHODS["dist"], inter=inter, intra=intra, tau=tau)
    scene.agree(distiller(scene.view), expected)


@pytest.mark.parametrize("classes", [1, 2, 3, 7])
@pytest.mark.parametrize("constant", ["student", "teacher", "both"])
def test_dist_of_constant_logits_is_no_correlation(classes, constant):
    scene = dense.plain(classes=classes, flat="" if constant == "both" else constant)
    if constant == "both":
        scene.ours["logits"].data.fill_(2.0)
        scene.theirs["logits"].fill_(-3.0)
    terms = scene.build(METHODS["dist"])(scene.view)
    for term in terms.values():
        assert term.item() == pytest.approx(1.0, abs=1e-7)
        assert torch.autograd.grad(term, scene.ours["logits"], retain_graph=True)[0].isfinite().all()


def test_correlation_is_numpys():
    x, y = random(50), random(50, seed=1)
    assert correlation(x, y, (0,)).item() == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-7)


def test_dist_divides_half_precision_scores_by_tau_in_float32():
    student, teacher = (random(1, 5, 4, 4, seed=i).bfloat16() for i in range(2))
    scene = dense.plain(classes=5)
    distiller = METHODS["dist"](scene.pair, tau=3.0)
    for name, term in distiller(scene.shown(logits=(student, teacher))).items():
        exact = distiller(scene.shown(logits=(student.double(), teacher.double())))[name]
        assert term.dtype == torch.float32
        assert term.item() == pytest.approx(exact.item(), rel=1e-5)


# dsd, category-wise


def dense_csd(student, teacher, tau):
    def gram(x, i):
        """Of one image: classes by classes."""
        rows = []
        for scores in x[i]:
            corners = product(range(0, scores.shape[0], 2), range(0, scores.shape[1], 2))
            small = torch.stack([scores[y : y + 2, x : x + 2].mean() for y, x in corners])
            rows.append(dense.log_softmax(small / tau).exp())
        return torch.stack([torch.stack([(a * b).sum() for b in rows]) for a in rows])

    n, classes = teacher.shape[:2]
    return sum((gram(student, i) - gram(teacher, i)).square().sum() for i in range(n)) / (n * classes**2)


@EXAMPLES
@given(scene=scenes(), category=POSITIVE, kd=WEIGHTS, tau=TEMPERATURES)
def test_category_wise_similarity(scene, category, kd, tau):
    distiller = scene.build(METHODS["dsd"], pixel=0.0, category=category, kd=kd, tau=tau)
    loss = category * dense_csd(scene.matched("logits"), scene.theirs["logits"], tau)
    scene.agree(distiller(scene.view), {"csd": loss, **dense.kd_of(scene, kd)})


@pytest.mark.parametrize("hw", [(4, 4), (2, 6), (6, 3), (5, 4), (3, 5), (1, 4)])
def test_category_wise_similarity_of_even_and_odd_sides(hw):
    student, teacher = random(2, 3, *hw).requires_grad_(), random(2, 3, *hw, seed=1)
    agree(csd_loss(student, teacher, 2.0), dense_csd(student, teacher, 2.0), [student])


# kt


def dense_kt(student, teacher, divergence, tau, delta):
    if divergence == "kl":
        return dense.cwd(student, teacher, tau)
    n, channels, _, _ = teacher.shape
    if divergence == "l1":
        maps = product(range(n), range(channels))
        pairs = [(student[i, c].flatten(), teacher[i, c].flatten()) for i, c in maps]
    else:
        pairs = [(student[i, :, y, x], teacher[i, :, y, x]) for i, y, x in dense.places(teacher)]
    differences = torch.stack([unit(a) - unit(b) for a, b in pairs])
    total = {
        "l1": differences.abs().sum(),
        "mse": differences.square().sum(),
        "huber": delta * differences.square().sum()
        if differences.abs().mean() <= delta
        else delta * (differences.abs() - delta / 2).sum(),
    }[divergence]
    return total / (n * channels)


@pytest.mark.parametrize("divergence", ["kl", "mse", "l1", "huber"])
@EXAMPLES
@given(
    scene=scenes(most=4),
    weights=st.tuples(WEIGHTS, WEIGHTS, WEIGHTS),
    tau=TEMPERATURES,
    delta=st.sampled_from([0.05, 0.4, 1.0]),
    convention=st.sampled_from(["kt", "canonical"]),
)
def test_kt(divergence, scene, weights, tau, delta, convention):
    logits, feature, kd = weights
    options = {"divergence": divergence, "tau": tau, "delta": delta, "convention": convention}
    distiller = scene.build(METHODS["kt"], logits=logits, feature=feature, kd=kd, **options)
    expected = {}
    if logits:
        loss = dense_kt(scene.matched("logits"), scene.theirs["logits"], divergence, tau, delta)
        expected["kt_logits"] = logits * loss
    if feature:
        theirs = scene.theirs["decoder"]
        mapped = dense.resized(dense.adapted(scene, "decoder", distiller, bias=False), theirs.shape[-2:])
        factor = theirs.shape[1] / scene.ours["decoder"].shape[1] if convention == "kt" else 1.0
        expected["kt_feature"] = feature * factor * dense_kt(mapped, theirs, divergence, tau, delta)
    expected |= dense.kd_of(scene, kd, tau)
    scene.agree(distiller(scene.view), expected, *distiller.parameters())


def test_huber_takes_one_of_its_branches_for_all_elements():
    """One element is above delta, the mean is not; then the other way round."""
    teacher = torch.zeros(1, 2, 1, 4, dtype=torch.float64)
    teacher[:, 0] = 1.0
    student = teacher.clone()
    student[..., 0] = torch.tensor([0.0, 1.0]).view(1, 2, 1)  # two differences of 1, six of 0: 0.25 in the mean
    for delta, total in ((0.5, 2 * 0.5), (0.2, 0.2 * (2 - 8 * 0.1))):
        assert kt_loss(student, teacher, "huber", delta=delta).item() == pytest.approx(total / 2, rel=1e-12)
