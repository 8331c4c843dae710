"""The critic and the whole loss: shapes, modes, who is moved by what, refusals. Values: tests/oracles, test_sstkd_losses."""

import numpy as np
import pytest
import torch

from sstkd import CDM, DTIEM, HolisticCritic, SSTKDLoss, critic_loss, generator_loss, gradient_penalty

# All terms are on.
PAPER = {"w_re": 5.0, "w_str": 0.9, "w_sta": 1.15, "w_adv": 0.01}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def critic_of(classes=5, width=4):
    torch.manual_seed(0)
    return HolisticCritic(classes, width)


@pytest.mark.parametrize(("hw", "out"), [((64, 64), (1, 1)), ((8, 8), (1, 1)), ((1, 70), (1, 1)), ((128, 96), (5, 3))])
def test_one_judgement_per_window(hw, out):
    assert critic_of()(random(2, 5, *hw)).shape == (2, 1, *out)


def test_four_calls_and_one_backward_pass():
    critic = critic_of().train()
    fake, real = random(3, 5, 32, 32).requires_grad_(), random(3, 5, 32, 32, seed=1)
    adversarial = generator_loss(critic.with_fixed_parameters(fake))
    share = torch.rand(3, 1, 1, 1)
    loss = critic_loss(critic(fake.detach()), critic(real)) + gradient_penalty(critic, fake, real, share)
    (adversarial + loss).backward()
    (alone,) = torch.autograd.grad(generator_loss(critic_of().train().with_fixed_parameters(fake)), fake)
    torch.testing.assert_close(fake.grad, alone, msg="the critic's loss moves the student")
    assert all(p.grad is not None and p.grad.isfinite().all() for p in critic.parameters())
    assert any(p.grad.abs().max() > 0 for p in critic.parameters())


def test_the_student_sees_a_fixed_critic():
    critic = critic_of().train()
    fake = random(2, 5, 64, 64).requires_grad_()
    before = [buffer.clone() for buffer in critic.buffers()]
    generator_loss(critic.with_fixed_parameters(fake)).backward()
    assert fake.grad.abs().max() > 0
    assert all(p.grad is None for p in critic.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, critic.buffers(), strict=True)), "statistics move"


def test_spectral_norms_are_one_from_the_start():
    critic = critic_of().eval()
    for convolution in critic.convolutions:
        matrix = convolution.weight.flatten(1)
        sigma = convolution.u @ (matrix @ convolution.v)
        assert float(torch.linalg.matrix_norm(matrix / sigma, 2).detach()) == pytest.approx(1, rel=0.1)


def test_eval_mode_changes_nothing():
    critic = critic_of().eval()
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    first = critic(random(2, 5, 64, 64))
    assert torch.equal(critic(random(2, 5, 64, 64)), first)
    assert all(torch.equal(value, before[name]) for name, value in critic.state_dict().items())


def test_autocast_is_off_inside():
    critic = critic_of().train()
    scores = random(2, 5, 64, 64).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        out = critic(scores)
        penalty = gradient_penalty(critic, scores.float(), scores.float() + 1, torch.rand(2, 1, 1, 1))
    assert out.dtype == penalty.dtype == torch.float32


@pytest.mark.parametrize("kind", ["wgan-gp", "hinge"])
def test_a_critic_learns_to_tell_them_apart(kind):
    torch.manual_seed(1)
    critic = HolisticCritic(3, 4).train()
    optimizer = torch.optim.Adam(critic.parameters(), lr=4e-3, betas=(0.9, 0.99))
    draws = torch.Generator().manual_seed(0)
    gaps = []
    for _ in range(30):
        noise = torch.randn(4, 3, 64, 64, generator=draws)
        fake, real = noise, torch.nn.functional.avg_pool2d(noise, 5, 1, 2)
        judged, teacher = critic(fake), critic(real)
        loss = critic_loss(judged, teacher, kind) + gradient_penalty(critic, fake, real, torch.rand(4, 1, 1, 1))
        gaps.append(float((teacher.mean() - judged.mean()).detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(gaps[-5:]) / 5 > sum(gaps[:5]) / 5 + 0.05


def test_with_tanh_the_first_convolution_sees_the_tanh_of_the_scores():
    """The rest is the critic whose numbers are the authors'; a normalisation by mean 0 and variance 1 leaves it alone."""
    torch.manual_seed(0)
    critic = HolisticCritic(3, 2, "tanh").double().eval()
    plain = HolisticCritic(3, 2).double().eval()
    shared = {name: value for name, value in plain.state_dict().items() if not name.startswith("norm.")}
    assert list(critic.state_dict()) == list(shared), "tanh has no parameters and no statistics"
    plain.load_state_dict(critic.state_dict(), strict=False)
    plain.norm.running_var.fill_(1 - 1e-5)  # beside the epsilon of batch normalisation
    x = (3 * random(2, 3, 64, 80).double()).requires_grad_()
    a = np.tanh(x.detach().numpy())
    seen = torch.from_numpy(a).requires_grad_()
    found, want = critic(x), plain(seen)
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-14)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    (inner,) = torch.autograd.grad(want.sum(), seen)
    np.testing.assert_allclose(gradient.numpy(), inner.numpy() * (1 - a**2), rtol=1e-8, atol=1e-14)
    assert not torch.allclose(plain(x.detach()), found.detach())
    assert torch.autograd.gradcheck(critic, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(critic, (x,), fast_mode=True), "the gradient penalty differentiates twice"


def test_tanh_draws_the_same_critic():
    torch.manual_seed(0)
    drawn = HolisticCritic(5, 4, "tanh").state_dict()
    assert all(torch.equal(drawn[name], value) for name, value in critic_of().state_dict().items() if name in drawn)


def test_the_whole_loss_passes_the_critics_input_on():
    assert isinstance(SSTKDLoss(w_adv=0.01, classes=5, critic_width=2, critic_input="tanh").critic.norm, torch.nn.Tanh)
    with pytest.raises(ValueError, match="critic's input is 'relu'; allowed: 'batchnorm', 'tanh'"):
        SSTKDLoss(w_adv=0.01, classes=5, critic_width=2, critic_input="relu")


def test_critic_refusals():
    with pytest.raises(ValueError, match="classes is 0"):
        HolisticCritic(0)
    with pytest.raises(ValueError, match=r"scores must be \(N, 5, H, W\), got \(2, 4, 64, 64\)"):
        critic_of()(random(2, 4, 64, 64))
    with pytest.raises(ValueError, match="unknown adversarial term 'gan'; allowed: 'wgan-gp', 'hinge'"):
        critic_loss(torch.zeros(1), torch.zeros(1), "gan")
    with pytest.raises(ValueError, match="the student's scores have shape"):
        gradient_penalty(critic_of(), random(2, 5, 8, 8), random(2, 5, 9, 8), torch.rand(2, 1, 1, 1))
    for classes, width in ((2.5, 4), (5, 4.0)):
        with pytest.raises(ValueError, match="must be integers"):
            HolisticCritic(classes, width)


def test_a_batch_without_images_is_an_error():
    critic, empty = critic_of(), torch.zeros(0, 5, 64, 64)
    for run in (
        lambda: critic(empty),
        lambda: generator_loss(torch.zeros(0, 1, 1, 1)),
        lambda: critic_loss(torch.zeros(1), torch.zeros(0)),
        lambda: gradient_penalty(critic, empty, empty, torch.rand(0, 1, 1, 1)),
    ):
        with pytest.raises(ValueError, match=r"empty.*at least one image"):
            run()


def test_inference_mode_is_refused_before_the_critic_moves():
    loss = loss_of()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    with torch.inference_mode(), pytest.raises(ValueError, match=r"torch\.inference_mode.*torch\.no_grad"):
        loss(features(0), features(1), scores(2), scores(3))
    with torch.inference_mode(), pytest.raises(ValueError, match=r"torch\.inference_mode"):
        gradient_penalty(loss.critic, scores(2), scores(3), torch.rand(2, 1, 1, 1))
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())
    with torch.no_grad():
        assert all(term.isfinite() for term in loss(features(0), features(1), scores(2), scores(3)).values())
    with torch.inference_mode():
        assert loss_of(w_adv=0)(features(0), features(1), scores(2), scores(3))["structural"] > 0


# The whole loss


def features(seed):
    return random(2, 6, 16, 24, seed=seed)


def scores(seed):
    return random(2, 5, 12, 12, seed=seed)


def loss_of(**options):
    torch.manual_seed(0)
    return SSTKDLoss(**{"classes": 5, "critic_width": 2, **PAPER, **options})


def test_all_terms_and_reproducibly_from_the_generator():
    values = []
    for seed in (3, 3, 4):
        loss = loss_of()
        terms = loss(features(0), features(1), scores(2), scores(3), torch.Generator().manual_seed(seed))
        assert list(terms) == ["response", "structural", "statistical", "adversarial", "critic"]
        values.append({name: float(term.detach()) for name, term in terms.items()})
    assert values[0] == values[1]
    assert {name for name in values[0] if values[0][name] != values[2][name]} == {"statistical", "critic"}


def test_weights_scale_their_terms():
    one = loss_of()(features(0), features(1), scores(2), scores(3), torch.Generator().manual_seed(0))
    weights = {"w_re": 10.0, "w_str": 1.8, "w_sta": 2.3, "w_adv": 0.02}
    two = loss_of(**weights)(features(0), features(1), scores(2), scores(3), torch.Generator().manual_seed(0))
    for name, term in one.items():
        torch.testing.assert_close(two[name], term if name == "critic" else 2 * term)


def test_parts_of_ones_own():
    loss = loss_of(cdm=CDM((2,), weighting="whitened"), dtiem=DTIEM(8), congruence=0.5, region_importance="uncertainty")
    terms = loss(features(0), features(1), scores(2), scores(3))
    assert all(term.isfinite() for term in terms.values())


def test_terms_that_are_off_need_no_inputs():
    assert list(loss_of(w_str=0, w_sta=0, w_adv=0, classes=None)(None, None, scores(0), scores(1))) == ["response"]
    with pytest.raises(ValueError, match="need the features"):
        loss_of()(None, features(0), scores(0), scores(1))


def test_loss_refusals():
    with pytest.raises(ValueError, match="needs `classes`"):
        SSTKDLoss(w_adv=0.01)
    for options in ({"w_re": -1.0}, {"w_adv": float("nan")}, {"gradient_penalty": -1.0}, {"congruence": float("inf")}):
        with pytest.raises(ValueError, match="must not be negative or infinite"):
            loss_of(**options)
    with pytest.raises(ValueError, match="region_importance is 'all'"):
        loss_of(region_importance="all")
    with pytest.raises(ValueError, match="features differ"):
        loss_of()(features(0), features(0)[:, :5], scores(0), scores(1))
    broken = features(0)
    broken[1, 2, 3, 4] = float("nan")
    with pytest.raises(ValueError, match=r"the student's low-level features: 1 of 4608 values are NaN.*\[1, 2, 3, 4\]"):
        loss_of()(broken, features(1), scores(0), scores(1))
    with pytest.raises(ValueError, match="the teacher's low-level features"):
        loss_of()(features(1), broken, scores(0), scores(1))


TERMS = [{"w_sta": 0, "w_adv": 0}, {"w_str": 0, "w_adv": 0}, {"w_re": 0, "w_adv": 0}, {"w_re": 0, "w_sta": 0}, {}]


@pytest.mark.parametrize("weights", TERMS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_named_whichever_terms_are_on(weights, bad):
    inputs = {
        "the student's low-level features": features(0),
        "the teacher's low-level features": features(1),
        "the student's class scores": scores(2),
        "the teacher's class scores": scores(3),
    }
    loss = loss_of(**weights, dtiem=DTIEM(check_finite=False))
    unread = weights == {"w_re": 0, "w_adv": 0}
    for name, x in inputs.items():
        broken = x.clone()
        broken[1, 2, 3, 4] = bad
        given = (inputs | {name: broken}).values()
        if unread and "scores" in name:
            assert all(term.isfinite() for term in loss(*given).values())
            continue
        with pytest.raises(
            ValueError, match=rf"{name}: 1 of \d+ values are NaN or infinite, the first at \[1, 2, 3, 4\]"
        ):
            loss(*given)


def test_the_check_can_be_switched_off():
    broken = features(0)
    broken[1, 2, 3, 4] = float("nan")
    terms = loss_of(w_adv=0, check_finite=False)(broken, features(1), scores(2), scores(3))
    assert [name for name, term in terms.items() if not term.isfinite()] == ["structural", "statistical"]


def test_scores_that_choose_the_regions_are_checked():
    options = {"w_re": 0, "w_adv": 0, "region_importance": "uncertainty"}
    broken = scores(3)
    broken[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="the teacher's class scores: 1 of"):
        loss_of(**options)(features(0), features(1), scores(2), broken)
    assert loss_of(**options, regions=0)(features(0), features(1), scores(2), broken)["statistical"].isfinite()


def test_the_loss_refuses_a_batch_without_images():
    inputs = features(0), features(1), scores(2), scores(3)
    for weights in TERMS:
        with pytest.raises(ValueError, match=r"are empty.*at least one image"):
            loss_of(**weights)(*(x[:0] for x in inputs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"region_options": {"foo": 1}},
            "region_options has 'foo'; allowed: sizes, aspects, points, oversample, important",
        ),
        ({"region_options": {"generator": None}}, "region_options has 'generator'"),
        ({"region_options": {"sizes": (3,)}}, r"sizes \(3,\) must be in"),
        ({"region_options": {"points": 2.5}, "regions": 0}, r"points 2\.5"),
        ({"regions": 2.5}, r"regions is 2\.5"),
        ({"temperature": float("inf")}, "temperature is inf"),
    ],
)
def test_options_are_refused_when_the_loss_is_built(options, message):
    with pytest.raises(ValueError, match=message):
        loss_of(**options)


def test_building_a_loss_without_a_critic_leaves_the_global_stream_alone():
    before = torch.get_rng_state()
    SSTKDLoss(w_adv=0, region_options={"points": 4})
    assert torch.equal(torch.get_rng_state(), before)
