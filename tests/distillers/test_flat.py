"""Every loss where maps are constant, zero or those of the teacher: finite, and 0 where nothing is to be learned."""

from itertools import product

import pytest
import torch

from harness.distillers import METHODS
from tests.support import dense

# No critic: it has tests of its own. Queues of a few entries, groups and patches that fit four channels and 5 x 4.
PARAMETERS = {
    "skd": {"holistic": 0.0},
    "ifvd": {"adversarial": 0.0},
    "cirkd": {"pixel_memory": 40, "region_memory": 4},
    "af-dcd": {"groups": 2, "pool": 2, "patch": (2, 2), "kd": 1.0},
    "cwd": {"feature": 50.0},
    "freekd": {"train_tokens": True},
}
VARIANTS = [
    *((name, PARAMETERS.get(name, {})) for name in METHODS if name not in ("none", "sstkd")),
    ("skd", {"holistic": 0.0, "convention": "cirkd"}),
    ("cirkd", {"pixel_memory": 40, "region_memory": 4, "convention": "cirkd"}),
    *(("kt", {"divergence": divergence}) for divergence in ("mse", "l1", "huber")),
]
ALL = pytest.mark.parametrize(("method", "parameters"), VARIANTS)


def filled(x, how):
    if how == "random":
        return x
    return {"zero": torch.zeros_like(x), "constant": torch.full_like(x, -0.3), "peaked": 1000 * x}[how]


@ALL
@pytest.mark.parametrize("learned", ["random", "zero", "constant", "peaked", "teacher"])
def test_terms_and_gradients_are_finite(method, parameters, learned):
    for taught, dtype in product(("random", "zero", "constant", "peaked"), (torch.float64, torch.float32)):
        scene = dense.plain(hw=(5, 4))
        for name, x in scene.theirs.items():
            x.copy_(filled(x, taught))
            scene.ours[name].data.copy_(x if learned == "teacher" else filled(scene.ours[name].data, learned))
        distiller = scene.build(METHODS[method], **parameters).to(dtype)
        view = scene.cast(dtype)
        terms = distiller(view)
        leaves = [*view.student.stages.values(), view.student.decoder, view.student.logits, *distiller.parameters()]
        assert terms
        for name, term in terms.items():
            assert term.isfinite(), (taught, dtype, name)
            gradients = torch.autograd.grad(term, leaves, allow_unused=True, retain_graph=True)
            assert all(g is None or g.isfinite().all() for g in gradients), (taught, dtype, name)


@ALL
@pytest.mark.parametrize("hw", [(1, 1), (1, 7), (6, 1)])
def test_maps_one_wide(method, parameters, hw):
    scene = dense.plain(hw=hw)
    terms = scene.build(METHODS[method], **parameters)(scene.view)
    assert all(term.isfinite() for term in terms.values())


@ALL
def test_nothing_is_to_be_learned_from_a_copy(method, parameters):
    """Terms of what has no parameters; a cross-entropy, which has a constant, apart: its gradient is 0."""
    scene = dense.plain(hw=(5, 4))
    for name, x in scene.theirs.items():
        scene.ours[name].data.copy_(x)
    terms = scene.build(METHODS[method], **parameters)(scene.view)
    trained = {"fitnet", "mgd", "feature", "contrast"} if method in ("fitnet", "mgd", "af-dcd") else set()
    trained |= {"pixel", "region"} if method == "cirkd" else set()
    for name in terms.keys() - trained:
        if (method, name) != ("skd", "pixel"):
            assert abs(terms[name]) < 1e-6, name
        for g in torch.autograd.grad(terms[name], list(scene.ours.values()), allow_unused=True, retain_graph=True):
            assert g is None or g.abs().max() < 1e-6
    assert terms.keys() - trained or method in ("fitnet", "mgd")


@pytest.mark.parametrize("method", ["fitnet", "at", "dsd", "cirkd", "af-dcd", "kt", "ifvd"])
def test_a_term_beside_the_method_at_weight_zero_is_absent(method):
    scene = dense.plain(hw=(5, 4))
    parameters = {**PARAMETERS.get(method, {}), "kd": 0.0}
    assert "kd" not in scene.build(METHODS[method], **parameters)(scene.view)
    parameters["kd"] = 2.0
    assert "kd" in scene.build(METHODS[method], **parameters)(scene.view)
