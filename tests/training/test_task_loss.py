"""The task losses of a recipe against torch, segmentation-models-pytorch and plain numpy: values and gradients."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss
from torch import Tensor

from harness.experiment.load import load
from harness.experiment.plan import plan
from harness.experiment.recipe import LossTerm
from harness.results import content, paths, reuse, store
from harness.training.gate import Facts, problems
from harness.training.loss_rule import require_losses_work
from harness.training.task_loss import TaskLoss
from tests.support import tiny

K, IGNORE, WEIGHTS = 4, 255, (0.5, 2.0, 1.0, 0.25)


def batch(seed: int = 0, images: int = 3) -> tuple[Tensor, Tensor]:
    """Scores, and labels of which a tenth is ignored; one image has none."""
    stream = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(images, K, 6, 7, generator=stream)
    label = torch.randint(K, (images, 6, 7), generator=stream)
    label[torch.rand(label.shape, generator=stream) < 0.1] = IGNORE
    label[1] = IGNORE
    return scores.requires_grad_(), label


def terms(*given: dict[str, Any]) -> tuple[LossTerm, ...]:
    return tuple(LossTerm.model_validate(term) for term in given)


def whole(loss: TaskLoss, scores: Tensor, label: Tensor) -> Tensor:
    return loss(scores, label, loss.counts(label))


def plain_ohem(scores: Any, label: Any, threshold: float, min_kept: int, weights: Any) -> float:
    """By sorting, image by image."""
    means = []
    for image, truth in zip(scores, label, strict=True):
        shifted = image - image.max(0)
        probability = np.exp(shifted) / np.exp(shifted).sum(0)
        pixels = [(probability[k, y, x], k) for (y, x), k in np.ndenumerate(truth) if k != IGNORE]
        if not pixels:
            continue
        pixels.sort()
        kept = [p for number, p in enumerate(pixels) if p[0] < threshold or number < min_kept]
        means.append(sum(-weights[k] * np.log(p) for p, k in kept) / sum(weights[k] for _, k in kept))
    return float(np.mean(means))


def oracle(term: dict[str, Any], scores: Tensor, label: Tensor) -> Tensor:
    weights = torch.tensor(term["class_weights"]) if "class_weights" in term else None
    if term["name"] == "cross-entropy":
        smoothing = term.get("label_smoothing", 0.0)
        return F.cross_entropy(scores, label, weights, ignore_index=IGNORE, label_smoothing=smoothing)
    if term["name"] == "dice":
        return DiceLoss("multiclass", ignore_index=IGNORE, smooth=term.get("smooth", 0.0))(scores, label)
    options = {key: term[key] for key in ("gamma", "alpha") if key in term}
    return FocalLoss("multiclass", ignore_index=IGNORE, **options)(scores, label)


EACH: list[dict[str, Any]] = [
    {"name": "cross-entropy"},
    {"name": "cross-entropy", "class_weights": WEIGHTS},
    {"name": "cross-entropy", "label_smoothing": 0.1},
    {"name": "cross-entropy", "label_smoothing": 0.2, "class_weights": WEIGHTS},
    {"name": "dice"},
    {"name": "dice", "smooth": 1.0},
    {"name": "focal"},
    {"name": "focal", "gamma": 1.5, "alpha": 0.25},
]


@pytest.mark.parametrize("term", EACH, ids=str)
def test_values_and_gradients_are_those_of_the_library(term: dict[str, Any]) -> None:
    ours, label = batch()
    theirs = ours.detach().clone().requires_grad_()
    found, expected = whole(TaskLoss(terms(term), K, IGNORE), ours, label), oracle(term, theirs, label)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(v, x)[0] for v, x in ((found, ours), (expected, theirs))))


@pytest.mark.parametrize("threshold", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("min_kept", [1, 5, 1000])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_ohem_is_what_sorting_gives(threshold: float, min_kept: int, weights: tuple[float, ...] | None) -> None:
    scores, label = batch()
    term = {"name": "ohem", "threshold": threshold, "min_kept": min_kept, "class_weights": weights}
    loss = TaskLoss(terms(term), K, IGNORE)
    exact = scores.detach().double().numpy()
    expected = plain_ohem(exact, label.numpy(), threshold, min_kept, weights or (1.0,) * K)
    assert whole(loss, scores, label).item() == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(whole(loss, scores, label), scores)
    for place in ((0, 2, 3, 4), (2, 0, 1, 1), (2, 3, 5, 6)):
        moved = []
        for sign in (1, -1):
            near = exact.copy()
            near[place] += sign * 1e-5
            moved.append(plain_ohem(near, label.numpy(), threshold, min_kept, weights or (1.0,) * K))
        assert float(gradient[place]) == pytest.approx((moved[0] - moved[1]) / 2e-5, abs=1e-4)


def test_all_pixels_kept_is_the_mean_over_images_of_cross_entropy() -> None:
    scores, label = batch()
    found = whole(TaskLoss(terms({"name": "ohem", "threshold": 1.0, "min_kept": 1000}), K, IGNORE), scores, label)
    each = [F.cross_entropy(scores[i : i + 1], label[i : i + 1], ignore_index=IGNORE) for i in (0, 2)]
    torch.testing.assert_close(found, torch.stack(each).mean())


@pytest.mark.parametrize(
    "term",
    [
        {"name": "cross-entropy", "class_weights": WEIGHTS, "label_smoothing": 0.1},
        {"name": "ohem", "min_kept": 5},
        {"name": "focal"},
    ],
    ids=str,
)
def test_pieces_of_a_batch_add_up_to_the_whole(term: dict[str, Any]) -> None:
    scores, label = batch(images=6)
    loss = TaskLoss(terms(term), K, IGNORE)
    counts = loss.counts(label)
    parts = [loss(scores[i : i + 2], label[i : i + 2], counts) for i in (0, 2, 4)]
    torch.testing.assert_close(torch.stack(parts).sum(), loss(scores, label, counts))
    assert torch.equal(counts, torch.stack([loss.counts(label[i : i + 2]) for i in (0, 2, 4)]).sum(0))


def test_a_sum_has_weights() -> None:
    scores, label = batch()
    both = terms({"name": "cross-entropy"}, {"name": "dice", "weight": 0.5})
    apart = [whole(TaskLoss(terms({"name": name}), K, IGNORE), scores, label) for name in ("cross-entropy", "dice")]
    torch.testing.assert_close(whole(TaskLoss(both, K, IGNORE), scores, label), apart[0] + 0.5 * apart[1])


@pytest.mark.parametrize("term", [*EACH, {"name": "ohem", "min_kept": 3}], ids=str)
def test_without_any_label_it_is_0_and_so_is_its_gradient(term: dict[str, Any]) -> None:
    scores, label = batch()
    loss = TaskLoss(terms(term), K, IGNORE)
    found = loss(scores, torch.full_like(label, IGNORE), torch.ones(1))
    (gradient,) = torch.autograd.grad(found, scores)
    assert found.item() == 0 and not gradient.any()


def test_today_s_default_is_the_same_bits() -> None:
    scores, label = batch()
    valid = (label != IGNORE).sum().float()
    expected = 0.4 * F.cross_entropy(scores, label, ignore_index=IGNORE, reduction="sum") / valid
    assert torch.equal(TaskLoss(None, None, IGNORE)(scores, label, valid, 0.4), expected)


def test_the_number_of_class_weights_is_that_of_the_classes() -> None:
    with pytest.raises(ValueError, match=r"class_weights of cross-entropy has 4 numbers; the data has 5 classes"):
        TaskLoss(terms({"name": "cross-entropy", "class_weights": WEIGHTS}), 5, IGNORE)


WRONG = {
    "lovasz": "unknown loss 'lovasz'. Allowed: cross-entropy, ohem, dice, focal, or a function of your own",
    "ohem": "ohem needs min_kept",
    "{name: ohem, min_kept: 0}": "greater than 0",
    "{name: ohem, min_kept: 5, threshold: 1.5}": "less than or equal to 1",
    "{name: dice, gamma: 2}": "gamma is not an option of dice. Allowed: weight, smooth",
    "{name: cross-entropy, class_weights: [1, -1]}": "greater than or equal to 0",
    "{name: cross-entropy, class_weights: [1, .nan]}": ".nan is not a finite number",
    "{name: cross-entropy, class_weights: [0, 0]}": "class_weights are all 0",
    "{name: cross-entropy, class_weights: balanced}": "list",
    "{name: cross-entropy, label_smoothing: 1}": "less than 1",
    "{name: focal, gamma: 0.5}": "infinite. Allowed: 0, or at least 1",
    "{name: dice, weight: 0}": "greater than 0",
    "[]": "at least 1 item",
    "[dice, 3]": "Input should be a mapping",
    "[[dice]]": "Input should be a mapping",
    "'os:system'": "Python's own library",
    "'no_such_module:loss'": "no_such_module",
    "'../x:y'": "package.module:Class",
}


@pytest.mark.parametrize("written", WRONG)
def test_what_is_wrong_is_refused_by_key(tmp_path: Path, written: str) -> None:
    with pytest.raises(ValueError) as caught:
        load(tiny.write(tmp_path), [f"train.loss={written}"])
    assert "train.loss" in str(caught.value) and WRONG[written] in str(caught.value), caught.value


OWN = """
import torch


def margin(logits, labels, ignore_index, *, power: float = 2.0):
    own = logits.softmax(1).gather(1, labels.where(labels != ignore_index, 0)[:, None])[:, 0]
    return ((1 - own) ** power)[labels != ignore_index].mean()


def many(logits, labels, ignore_index):
    return logits


def apart(logits, labels, ignore_index):
    return logits.detach().mean()


def writes_labels(logits, labels, ignore_index):
    labels[labels == ignore_index] = 0
    return torch.nn.functional.cross_entropy(logits, labels)


def writes_scores(logits, labels, ignore_index):
    return torch.nn.functional.cross_entropy(logits.mul_(0.5), labels, ignore_index=ignore_index)


def forgets(logits, labels, ignore_index):
    return torch.nn.functional.cross_entropy(logits, labels)


def no_number(logits, labels, ignore_index):
    return logits.mean() * float("nan")


def steep(logits, labels, ignore_index):
    return (logits * 0).sum().sqrt()


def leaves(logits, labels, ignore_index):
    raise SystemExit(3)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "ownloss.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("ownloss", None)


def test_a_function_of_ones_own_is_trained_with_and_its_source_is_part_of_the_row(own: Path) -> None:
    recipe = {**tiny.TINY["train"], "steps": 2, "eval_every": 2, "schedule": {}, "checkpoint_every": 2}
    recipe["loss"] = [{"name": "ownloss:margin", "parameters": {"power": 1}}, "dice"]
    pairs = [{**tiny.TINY["pairs"][0], "teacher": {**tiny.TINY["pairs"][0]["teacher"], "steps": 1}}]
    runs = tiny.plan(own, train=recipe, pairs=pairs, methods=["none"])
    assert runs[0].train.loss is not None and runs[0].train.loss[0].parameters == {"power": 1.0}
    for run in runs:
        assert tiny.in_process(run, own / "r") == "ok", store.read_row(paths.run_path(own / "r", run.run_id))["message"]
    row = store.read_row(paths.run_path(own / "r", runs[1].run_id))
    assert row["source_sha256"] == content.outside_sha256("none", "ownloss:margin")
    (own / "ownloss.py").write_text(OWN + "# changed\n")
    found = reuse.standings(own / "r", None, lambda: None)
    assert {standing.state for standing in found.values()} == {"stale"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("many", "one number, a scalar tensor"),
        ("apart", "does not depend on the scores"),
        ("writes_labels", "changes the scores or the labels that it is given"),
        ("writes_scores", "changes the scores or the labels that it is given"),
    ],
)
def test_a_function_that_is_no_loss_is_refused_with_its_name(own: Path, name: str, words: str) -> None:
    loss = TaskLoss(terms({"name": f"ownloss:{name}"}), K, IGNORE)
    scores, label = batch()
    with pytest.raises(ValueError, match=f"ownloss:{name} .*{words}"):
        whole(loss, scores * 1, label)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("forgets", "fails on random scores and labels: IndexError: Target 255 is out of bounds"),
        ("no_number", "gives nan on random scores and labels"),
        ("steep", "has a gradient that is not finite"),
        ("leaves", "fails on random scores and labels: SystemExit: 3"),
        ("writes_labels", "changes the scores or the labels that it is given"),
        ("many", "one number, a scalar tensor"),
    ],
)
def test_check_tries_a_function_of_ones_own_and_names_it(own: Path, name: str, words: str) -> None:
    experiment = load(tiny.write(own), [f"train.loss='ownloss:{name}'", "train.augment.scale=[0.5, 2.0]"])
    said = list(problems(plan(experiment), Facts(experiment.resources, own)))
    assert len(said) == 1 and said[0].startswith(f"train.loss: ownloss:{name} ") and words in said[0], said


def test_check_lets_a_loss_pass_that_does_its_part(own: Path) -> None:
    experiment = load(tiny.write(own), ["train.loss='ownloss:margin'", "methods=[none]"])
    assert not list(problems(plan(experiment), Facts(experiment.resources, own)))


def test_a_loss_need_not_know_a_label_that_does_not_occur(own: Path) -> None:
    run = plan(load(tiny.write(own), ["train.loss='ownloss:forgets'"]))[0]
    require_losses_work(run, K, IGNORE, unlabelled=False)


def test_a_pass_without_a_label_adds_nothing_of_a_mean(own: Path) -> None:
    scores, label = batch()
    loss = TaskLoss(terms({"name": "ownloss:margin"}), K, IGNORE)
    found = loss(scores, torch.full_like(label, IGNORE), torch.ones(1))
    (gradient,) = torch.autograd.grad(found, scores)
    assert found.item() == 0 and not gradient.any()


def test_a_function_of_other_arguments_is_refused_before_it_is_called(own: Path) -> None:
    (own / "ownloss.py").write_text(OWN + "\ndef two(logits, labels):\n    return logits.mean()\n")
    with pytest.raises(ValueError, match=r"ownloss:two is called with \(scores, labels, ignore_index\)"):
        TaskLoss(terms({"name": "ownloss:two"}), K, IGNORE)


def test_parameters_of_a_function_are_checked(own: Path) -> None:
    with pytest.raises(ValueError, match=r"train.loss.0.parameters.powr: unknown key. Did you mean 'power'"):
        load(tiny.write(own), ["train.loss={name: 'ownloss:margin', parameters: {powr: 3}}"])


def test_check_counts_class_weights(tmp_path: Path) -> None:
    experiment = load(tiny.write(tmp_path), ["train.loss={name: cross-entropy, class_weights: [1, 2]}"])
    said = list(problems(plan(experiment), Facts(experiment.resources, tmp_path)))
    assert any("class_weights of cross-entropy has 2 numbers; the data has 8 classes" in line for line in said), said
