"""The three terms and the distiller against formulas written out here."""

import ast
import inspect
import textwrap

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from harness.distillers.sstkd import SSTKD
from harness.files import sha256
from harness.taps import NetworkInfo, Pair, TapInfo, Taps, View
from sstkd.cdm import CDM
from sstkd.dtiem import DTIEM, Equalized, whole_map
from sstkd.graph import GraphEnhancement
from sstkd.losses import congruence_loss, response_loss, statistical_loss, structural_loss


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense_cdm(size):
    """CDM((1, 2)) on (size, size) maps as one matrix (coefficients, size^2); its values have oracles of their own."""
    bands = CDM((1, 2))(torch.eye(size * size, dtype=torch.float64).view(-1, 1, size, size))
    return torch.cat([band.flatten(1) for band in bands], 1).T


def test_structural_values_and_gradients():
    student, teacher = random(2, 3, 4, 4).requires_grad_(), random(2, 3, 4, 4, seed=1)
    matrix = dense_cdm(4)
    bands = (student.detach() - teacher).flatten(2) @ matrix.T
    cdm = CDM((1, 2))
    want_gradient = (2 / bands.numel() * bands @ matrix).view_as(student)
    for loss in (structural_loss(cdm(student), cdm(teacher)), structural_loss(cdm(student - teacher))):
        torch.testing.assert_close(loss, bands.square().mean(), rtol=1e-10, atol=0)
        (gradient,) = torch.autograd.grad(loss, student)
        torch.testing.assert_close(gradient, want_gradient, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("levels", [(2,), (1, 2), (2, 3)])
def test_structural_positions_is_a_sum_over_channels_and_bands(levels):
    """sum over channels c and bands b of the mean over images and positions of b, in numpy."""
    n, c, size = 2, 3, 16
    student, teacher = random(n, c, size, size).requires_grad_(), random(n, c, size, size, seed=1)
    impulses = CDM(levels)(torch.eye(size * size, dtype=torch.float64).view(-1, 1, size, size))
    bands = [stack[:, 0, b].flatten(1).numpy().T for stack in impulses for b in range(stack.shape[2])]
    difference = (student.detach() - teacher).flatten(2).numpy()
    want, want_gradient = 0.0, np.zeros((n, c, size * size))
    for matrix in bands:  # (positions of the band, positions of the map)
        coefficients = np.einsum("pq,ncq->ncp", matrix, difference)
        for channel in range(c):
            want += np.mean(coefficients[:, channel] ** 2)
        want_gradient += 2 / (n * len(matrix)) * np.einsum("pq,ncp->ncq", matrix, coefficients)
    cdm = CDM(levels)
    for loss in (
        structural_loss(cdm(student), cdm(teacher), "positions"),
        structural_loss(cdm(student - teacher), reduction="positions"),
    ):
        assert loss.item() == pytest.approx(want, rel=1e-12)
        (gradient,) = torch.autograd.grad(loss, student)
        np.testing.assert_allclose(gradient.flatten(2).numpy(), want_gradient, rtol=1e-9, atol=1e-14)


def test_one_level_of_the_structural_term_is_converted_by_channels_times_bands():
    bands = CDM((3,))(random(2, 5, 16, 16))
    assert sum(band.shape[2] for band in bands) == 8
    positions = structural_loss(bands, reduction="positions")
    torch.testing.assert_close(positions, 5 * 8 * structural_loss(bands), rtol=1e-12, atol=0)


def test_the_default_reduction_is_the_mean_bit_for_bit():
    bands = [band.float() for band in CDM()(random(2, 5, 32, 32))]
    total = torch.stack([band.square().sum() for band in bands]).sum()
    assert torch.equal(structural_loss(bands), total / sum(band.numel() for band in bands))
    values = random(2, 3, 4, 5).float(), random(2, 3, 4, 5, seed=1).float()
    assert torch.equal(statistical_loss(*values), (values[0] - values[1]).square().sum() / 120)


def test_statistical_positions_is_a_sum_over_a_graphs_dimensions_and_levels():
    n, m, p, d, levels = 2, 3, 5, 7, 4
    ours, theirs = (random(n, m, p, d, seed=i).requires_grad_(i == 0) for i in range(2))
    ours_cdf, theirs_cdf = (random(n, m, levels, seed=i).requires_grad_(i == 2) for i in (2, 3))
    a, b, f, g = (x.detach().numpy() for x in (ours, theirs, ours_cdf, theirs_cdf))
    want = np.mean(np.sum((a - b) ** 2, axis=3)) + 0.7 * np.mean(np.sum((f - g) ** 2, axis=2))
    loss = statistical_loss(Equalized(ours, ours_cdf), Equalized(theirs, theirs_cdf), 0.7, "positions")
    assert loss.item() == pytest.approx(want, rel=1e-12)
    gradients = torch.autograd.grad(loss, (ours, ours_cdf))
    np.testing.assert_allclose(gradients[0].numpy(), 2 * (a - b) / (n * m * p), rtol=1e-12)
    np.testing.assert_allclose(gradients[1].numpy(), 0.7 * 2 * (f - g) / (n * m), rtol=1e-12)
    # An equalised intensity is one number per position.
    values = random(n, m, p), random(n, m, p, seed=1)
    assert torch.equal(statistical_loss(*values, reduction="positions"), statistical_loss(*values))


def test_an_unknown_reduction_is_named():
    x = random(1, 2, 3)
    for call in (
        lambda: structural_loss([random(1, 1, 2, 4, 4)], reduction="sum"),
        lambda: statistical_loss(x, x, reduction="sum"),
        lambda: congruence_loss(x, x, "sum"),
        lambda: SSTKD(PAIR, reduction="sum"),
    ):
        with pytest.raises(ValueError, match="reduction is 'sum'; allowed: 'coefficients', 'positions'"):
            call()


def test_the_distiller_takes_the_reduction():
    given = {"regions": 0, "w_re": 0.0, "w_adv": 0.0, "w_str": 3.0, "w_sta": 4.0, "congruence": 0.5}
    distiller = SSTKD(PAIR, reduction="positions", **given).double()
    student, teacher = taps(4, 3), taps(6, 5, seed=1)
    terms = distiller(view(student, teacher))
    ours, theirs = distiller.adapter(distiller._low_level(student, (6, 6))), distiller._low_level(teacher, (6, 6))
    cdm, dtiem, everywhere = CDM(), DTIEM(), whole_map(2, 6, 6, torch.device("cpu"))
    pairs = zip(cdm(ours), cdm(theirs.detach()), strict=True)
    want = sum((a - b).square().mean((0, 3, 4)).sum() for a, b in pairs)
    torch.testing.assert_close(terms["structural"], 3 * want)
    a, b = (dtiem.equalize(x, everywhere) for x in (ours, theirs))
    want = (a.values - b.values).square().mean() + 0.5 * (a.cumulative - b.cumulative).square().sum(2).mean()
    torch.testing.assert_close(terms["statistical"], 4 * want)


def test_structural_refuses():
    with pytest.raises(ValueError, match="no subbands"):
        structural_loss([])
    with pytest.raises(ValueError, match=r"student subbands have shapes \[\(1, 2\)\], teacher subbands \[\(2, 1\)\]"):
        structural_loss([torch.zeros(1, 2)], [torch.zeros(2, 1)])
    with pytest.raises(ValueError, match=r"subbands are empty.*at least one image"):
        structural_loss([torch.zeros(0, 3, 2, 4, 4)])


def test_statistical_values_and_gradients():
    student, teacher = random(2, 3, 5).requires_grad_(), random(2, 3, 5, seed=1)
    loss = statistical_loss(student, teacher)
    loss.backward()
    difference = student.detach() - teacher
    torch.testing.assert_close(loss, (difference**2).sum() / 30)
    torch.testing.assert_close(student.grad, 2 * difference / 30)
    with pytest.raises(ValueError, match="student has shape"):
        statistical_loss(student, teacher[:1])


def test_congruence_values_and_gradients():
    student, teacher = random(2, 3, 4).requires_grad_(), random(2, 3, 4, seed=1)
    loss = congruence_loss(student, teacher)
    loss.backward()
    difference = student.detach() - teacher
    torch.testing.assert_close(loss, (difference**2).sum() / 24)
    torch.testing.assert_close(student.grad, 2 * difference / 24)
    with pytest.raises(ValueError, match="student has shape"):
        congruence_loss(student, teacher[:1])


def test_the_statistical_term_adds_congruence_by_its_weight():
    ours, theirs = (Equalized(random(2, 3, 5, seed=i), random(2, 3, 4, seed=i + 2)) for i in range(2))
    want = statistical_loss(ours.values, theirs.values)
    torch.testing.assert_close(statistical_loss(ours, theirs), want)
    both = want + 0.7 * congruence_loss(ours.cumulative, theirs.cumulative)
    torch.testing.assert_close(statistical_loss(ours, theirs, 0.7), both)
    with pytest.raises(ValueError, match=r"congruence 0\.7 compares distributions"):
        statistical_loss(ours.values, theirs, 0.7)
    for congruence in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"congruence is {congruence}"):
            statistical_loss(ours, theirs, congruence)


def test_a_batch_without_images_is_an_error():
    with pytest.raises(ValueError, match="batch is empty"):
        statistical_loss(torch.zeros(0, 2, 3), torch.zeros(0, 2, 3))
    with pytest.raises(ValueError, match="batch is empty"):
        congruence_loss(torch.zeros(0, 2, 3), torch.zeros(0, 2, 3))
    with pytest.raises(ValueError, match=r"scores are empty.*at least one image"):
        response_loss(torch.zeros(0, 2, 3, 3), torch.zeros(0, 2, 3, 3))


def test_congruence_compares_shapes_of_histograms():
    everywhere = whole_map(1, 8, 8, torch.device("cpu"))
    dtiem = DTIEM(clip_limit=None, iterations=0)

    def distribution(rough):
        x = torch.stack((torch.ones(64, dtype=torch.float64), rough)).view(1, 2, 8, 8)
        return dtiem.equalize(x, everywhere).cumulative

    even, peaked = torch.linspace(0, 1, 64, dtype=torch.float64), torch.linspace(0, 1, 64, dtype=torch.float64) ** 6
    assert congruence_loss(distribution(even), distribution(even)) == 0
    assert congruence_loss(distribution(even), distribution(peaked)) > 1e-2


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_response_values_and_gradients(temperature):
    student, teacher = random(2, 4, 3, 5).requires_grad_(), random(2, 4, 3, 5, seed=1)
    loss = response_loss(student, teacher, temperature)
    loss.backward()
    total = 0.0
    want_gradient = torch.zeros_like(teacher)
    for n in range(2):
        for i in range(3):
            for j in range(5):
                p_t = torch.exp(teacher[n, :, i, j] / temperature)
                p_s = torch.exp(student.detach()[n, :, i, j] / temperature)
                p_t, p_s = p_t / p_t.sum(), p_s / p_s.sum()
                total += (p_t * torch.log(p_t / p_s)).sum()
                want_gradient[n, :, i, j] = temperature / 30 * (p_s - p_t)
    torch.testing.assert_close(loss, temperature**2 * total / 30)
    torch.testing.assert_close(student.grad, want_gradient)


def test_response_refuses():
    x = torch.zeros(1, 2, 3, 3)
    with pytest.raises(ValueError, match="alike"):
        response_loss(x, x[:, :1])
    for temperature in (0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"temperature is {temperature}"):
            response_loss(x, x, temperature)


def network(one, two, classes=5):
    stages = {"stage1": TapInfo(one, 4), "stage2": TapInfo(two, 8)}
    return NetworkInfo(stages, TapInfo(8, 8), TapInfo(classes, 8))


def taps(one, two, n=2, side=48, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)

    def draw(channels, stride):
        size = (n, channels, -(-side // stride), -(-side // stride))
        return torch.randn(size, dtype=dtype, generator=g).requires_grad_()

    return Taps({"stage1": draw(one, 4), "stage2": draw(two, 8)}, draw(8, 8), draw(5, 8), draw(5, 1))


def view(student, teacher, seed=0):
    n, _, height, width = student.full.shape
    labels = torch.zeros(n, height, width, dtype=torch.long)
    return View(student, teacher.detach(), labels, 0.0, torch.Generator().manual_seed(seed))


PAIR = Pair(network(4, 3), network(6, 5), 5)


def test_distiller_is_the_weighted_sum_of_the_terms_on_the_grid():
    distiller = SSTKD(PAIR, regions=0, w_re=2.0, w_str=3.0, w_sta=4.0, w_adv=0.5, critic_width=4).double()
    before = {name: value.clone() for name, value in distiller.loss.critic.state_dict().items()}
    student, teacher = taps(4, 3), taps(6, 5, seed=1)
    terms = distiller(view(student, teacher))
    assert list(terms) == ["response", "structural", "statistical", "adversarial", "critic"]

    def low_level(t):
        small = F.avg_pool2d(t.stages["stage1"], 2)  # bilinear by two without aligned corners is the mean of 2 x 2
        return torch.cat((small, t.stages["stage2"]), 1)

    taught = low_level(teacher)
    adapted = distiller.adapter(low_level(student))
    everywhere = whole_map(2, 6, 6, taught.device)
    cdm, dtiem = CDM(), DTIEM()
    want = {
        "response": 2 * response_loss(student.logits, teacher.logits),
        "structural": 3 * structural_loss(cdm(adapted), cdm(taught)),
        "statistical": 4 * statistical_loss(dtiem(adapted, everywhere), dtiem(taught, everywhere)),
    }
    critic = SSTKD(PAIR, regions=0, w_re=2.0, w_str=3.0, w_sta=4.0, w_adv=0.5, critic_width=4).double().loss.critic
    critic.load_state_dict(before)
    judged = critic(student.logits)
    want["adversarial"] = -0.5 * judged.mean()
    real, fake = critic(teacher.logits), critic(student.logits)
    share = torch.rand(2, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    between = (share * teacher.logits + (1 - share) * student.logits).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between).sum(), between)
    penalty = 10 * ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
    want["critic"] = fake.mean() - real.mean() + penalty
    for name, term in terms.items():
        torch.testing.assert_close(term, want[name])
        assert term.ndim == 0


def test_gradients_reach_the_student_and_the_adapter_only():
    distiller = SSTKD(PAIR, w_adv=0.01)
    student, teacher = taps(4, 3, dtype=torch.float32), taps(6, 5, seed=1, dtype=torch.float32)
    sum(distiller(view(student, teacher)).values()).backward()
    assert all(t.grad.abs().sum() > 0 for t in (*student.stages.values(), student.logits))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in distiller.parameters())
    assert all(t.grad is None for t in (*teacher.stages.values(), teacher.logits))


@pytest.mark.parametrize(
    ("weights", "names", "parts"),
    [
        ({"w_re": 0.0}, ["structural", "statistical"], ["adapter", "cdm", "dtiem"]),
        ({"w_str": 0.0}, ["response", "statistical"], ["adapter", "dtiem"]),
        ({"w_sta": 0.0}, ["response", "structural"], ["adapter", "cdm"]),
        ({"w_str": 0.0, "w_sta": 0.0}, ["response"], []),
        ({"w_str": 0.0, "w_sta": 0.0, "w_adv": 0.01}, ["response", "adversarial", "critic"], ["critic"]),
    ],
)
def test_a_term_of_weight_zero_is_absent(weights, names, parts):
    distiller = SSTKD(PAIR, **weights).double()
    built = [*dict(distiller.named_children()), *dict(distiller.loss.named_children())]
    assert [name for name in built if name != "loss"] == parts
    assert bool(distiller.own_optimizers()) == ("critic" in parts)
    assert list(distiller(view(taps(4, 3), taps(6, 5)))) == names


@pytest.mark.parametrize("importance", ["texture", "uncertainty"])
def test_regions_follow_the_streams(importance):
    distiller = SSTKD(PAIR, w_adv=0.01, region_importance=importance).double()
    student, teacher = taps(4, 3, side=96), taps(6, 5, side=96, seed=1)
    values = [float(distiller(view(student, teacher, seed))["statistical"].detach()) for seed in (1, 1, 2)]
    assert values[0] == values[1] != values[2]


@pytest.mark.parametrize("side", [8, 9, 20, 33])
def test_tiny_and_odd_maps(side):
    distiller = SSTKD(PAIR, w_adv=0.01)
    student, teacher = taps(4, 3, side=side, dtype=torch.float32), taps(6, 5, side=side, dtype=torch.float32, seed=1)
    terms = distiller(view(student, teacher))
    assert all(term.isfinite() for term in terms.values())
    sum(terms.values()).backward()
    assert all(t.grad.isfinite().all() for t in student.stages.values())


def test_constant_features_give_finite_gradients():
    distiller = SSTKD(PAIR, w_adv=0.01)
    student, teacher = taps(4, 3, dtype=torch.float32), taps(6, 5, dtype=torch.float32)
    for t in (*student.stages.values(), *teacher.stages.values()):
        t.data.zero_()
    terms = distiller(view(student, teacher))
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert all(t.grad.isfinite().all() for t in student.stages.values())


@pytest.mark.parametrize("weights", [{"w_adv": 0.01}, {"w_sta": 0.0}, {"w_str": 0.0}, {"w_re": 0.0}])
@pytest.mark.parametrize(("role", "tap"), [("student", "stage1"), ("student", "stage2"), ("teacher", "stage2")])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_tap_that_is_not_finite_is_named(weights, role, tap, bad):
    student, teacher = taps(4, 3), taps(6, 5, seed=1)
    (student if role == "student" else teacher).stages[tap].data[1, 2, 0, 0] = bad
    distiller = SSTKD(PAIR, **weights).double()
    with pytest.raises(FloatingPointError, match=rf"the {role}'s {tap} \(1 of \d+ values\)\. If"):
        distiller(view(student, teacher))


def test_scores_that_are_not_finite_are_named_and_what_is_not_read_is_not():
    student, teacher = taps(4, 3), taps(6, 5, seed=1)
    teacher.stages["stage1"].data[0] = float("nan")
    distiller = SSTKD(PAIR, w_str=0.0, w_sta=0.0, w_adv=0.0)
    assert distiller(view(student, teacher))["response"].isfinite()
    student.logits.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"training: the student's logits \(1 of \d+ values\)\. If"):
        distiller(view(student, teacher))


def test_a_term_that_overflows_out_of_finite_taps_is_left_to_the_training_loop():
    student, teacher = taps(4, 3, dtype=torch.float32), taps(6, 5, seed=1, dtype=torch.float32)
    teacher.stages["stage1"].data.mul_(1e30)
    assert not SSTKD(PAIR)(view(student, teacher))["structural"].isfinite()


def test_scores_of_another_stride_are_brought_to_the_teachers_grid():
    student, teacher = taps(4, 3), taps(6, 5, seed=1)
    wide = Taps(student.stages, student.decoder, student.logits[..., ::2, ::2], student.full)
    distiller = SSTKD(PAIR, w_str=0.0, w_sta=0.0, w_re=1.0)
    resized = F.interpolate(wide.logits, (6, 6), mode="bilinear", align_corners=False)
    torch.testing.assert_close(distiller(view(wide, teacher))["response"], response_loss(resized, teacher.logits))


def test_autocast_keeps_the_texture_terms_in_float32():
    distiller = SSTKD(PAIR, w_adv=0.01)
    student, teacher = taps(4, 3, dtype=torch.float32), taps(6, 5, dtype=torch.float32, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        terms = distiller(view(student, teacher))
    assert {t.dtype for t in terms.values()} == {torch.float32}


def test_skip_says_which_tap_is_missing():
    assert SSTKD.skip(PAIR) is None
    poor = Pair(PAIR.student, NetworkInfo({"stage1": TapInfo(4, 4)}, TapInfo(8, 8), TapInfo(5, 8)), 5)
    assert SSTKD.skip(poor) == "the teacher has no tap stage2; it has stage1"
    assert SSTKD.skip(poor, stages=("stage1",)) is None
    assert SSTKD.skip(poor, w_str=0.0, w_sta=0.0) is None
    assert "empty" in SSTKD.skip(PAIR, stages=())
    with pytest.raises(ValueError, match="the teacher has no tap stage2"):
        SSTKD(poor)


@pytest.mark.parametrize(
    "options",
    [{"w_re": -1.0}, {"stride": 0}, {"regions": -1}, {"region_importance": "other"}, {"temperature": 0.0}],
)
def test_bad_hyper_parameters(options):
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        SSTKD(PAIR, **options)


def test_hyper_parameters_can_be_read_without_importing():
    init = ast.parse(textwrap.dedent(inspect.getsource(SSTKD.__init__))).body[0]
    defaults = {
        argument.arg: ast.literal_eval(default)
        for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
    }
    assert defaults["w_str"] == 0.09 and defaults["levels"] == (3, 4)
    assert set(SSTKD.space) <= set(defaults)
    documented = inspect.getdoc(SSTKD)
    assert [name for name in defaults if f"\n    {name}: " not in documented] == []


def graph_file(folder, levels=32):
    graph = GraphEnhancement(width=6, hidden=4)
    graph.remember(DTIEM(levels).settings())
    graph(torch.rand(8, levels), torch.rand(8, levels).softmax(-1))  # train mode: its statistics are of something
    path = folder / "graph.safetensors"
    save_file({f"head.graph.{name}": value for name, value in graph.state_dict().items()}, path)
    return {"graph_weights": str(path), "graph_sha256": sha256(path)}, graph


def test_the_graph_variant_reads_its_weights_from_a_file(tmp_path):
    weights, graph = graph_file(tmp_path)
    distiller = SSTKD(PAIR, variant="graph", w_adv=0.0, regions=0, **weights).double()
    student, teacher = taps(4, 3), taps(6, 5, seed=1)
    terms = distiller(view(student, teacher))
    everywhere = whole_map(2, 6, 6, torch.device("cpu"))
    dtiem = DTIEM(variant="graph", graph=graph).double()
    ours = distiller.adapter(distiller._low_level(student, (6, 6)))
    theirs = distiller._low_level(teacher.detach(), (6, 6))
    want = 1.15 * statistical_loss(dtiem(ours, everywhere), dtiem(theirs, everywhere))
    torch.testing.assert_close(terms["statistical"], want)
    assert not any(name.startswith("loss.dtiem") for name, p in distiller.named_parameters() if p.requires_grad)


def test_the_graph_variant_refuses(tmp_path):
    weights, _ = graph_file(tmp_path, levels=16)
    with pytest.raises(ValueError, match="needs weights that the teacher was trained with"):
        SSTKD(PAIR, variant="graph")
    with pytest.raises(ValueError, match="levels"):
        SSTKD(PAIR, variant="graph", **weights)
    with pytest.raises(ValueError, match="does not use"):
        SSTKD(PAIR, **weights)
    with pytest.raises(ValueError, match=r"missing\.safetensors"):
        SSTKD(PAIR, variant="graph", graph_weights=str(tmp_path / "missing.safetensors"), graph_sha256="0" * 64)
