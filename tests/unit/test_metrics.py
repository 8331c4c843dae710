import subprocess
import sys

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from harness.metrics import Confusion, confusion_matrix
from harness.scores import (
    class_accuracy,
    class_iou,
    frequency_weighted_iou,
    mean_accuracy,
    miou,
    pixel_accuracy,
    summary,
)


def loop_confusion(prediction, label, classes, ignore):
    out = np.zeros((classes, classes), np.int64)
    for p, t in zip(prediction.reshape(-1).tolist(), label.reshape(-1).tolist(), strict=True):
        if t != ignore:
            out[t, p] += 1
    return out


def loop_scores(prediction, label, classes, ignore):
    """IoU and accuracy per class from sets of pixel positions: no confusion matrix involved."""
    p, t = prediction.reshape(-1).tolist(), label.reshape(-1).tolist()
    kept = [i for i in range(len(t)) if t[i] != ignore]
    iou, accuracy, weight = [], [], []
    for k in range(classes):
        said, true = {i for i in kept if p[i] == k}, {i for i in kept if t[i] == k}
        iou.append(len(said & true) / len(said | true) if said | true else None)
        accuracy.append(len(said & true) / len(true) if true else None)
        weight.append(len(true) / len(kept))
    return iou, accuracy, weight, sum(p[i] == t[i] for i in kept) / len(kept)


def draw(seed, classes, used=None, shape=(3, 17, 23), ignored=0.2):
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(0, used or classes, shape, generator=g)
    prediction = torch.where(
        torch.rand(shape, generator=g) < 0.5, label, torch.randint(0, used or classes, shape, generator=g)
    )
    label[torch.rand(shape, generator=g) < ignored] = 255
    return prediction, label


@pytest.mark.parametrize("classes", [1, 2, 8, 150])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_confusion_matches_a_loop(classes, dtype):
    prediction, label = draw(classes, classes)
    got = confusion_matrix(prediction.to(dtype), label.to(dtype), classes)
    assert got.dtype == torch.int64
    np.testing.assert_array_equal(got.numpy(), loop_confusion(prediction, label, classes, 255))


def test_rows_are_labels_and_columns_predictions():
    got = confusion_matrix(torch.tensor([2, 2, 0]), torch.tensor([1, 1, 0]), 3)
    assert got[1, 2] == 2 and got[0, 0] == 1 and got.sum() == 3


@pytest.mark.parametrize("used", [8, 5])
def test_scores_match_sets_of_pixels(used):
    prediction, label = draw(used, 8, used=used)
    iou, accuracy, weight, right = loop_scores(prediction, label, 8, 255)
    c = confusion_matrix(prediction, label, 8).numpy()
    for got, want in ((class_iou(c), iou), (class_accuracy(c), accuracy)):
        np.testing.assert_allclose(got, [np.nan if v is None else v for v in want], rtol=1e-12)
    seen = [v for v in iou if v is not None]
    assert len(seen) == used
    assert miou(c) == pytest.approx(sum(seen) / used)
    assert miou(c, "zero") == pytest.approx(sum(seen) / 8)
    assert mean_accuracy(c) == pytest.approx(np.mean([v for v in accuracy if v is not None]))
    assert pixel_accuracy(c) == pytest.approx(right)
    assert frequency_weighted_iou(c) == pytest.approx(sum(w * v for w, v in zip(weight, iou, strict=True) if w))
    assert summary(c) == {
        "miou": miou(c),
        "pixel_accuracy": pixel_accuracy(c),
        "mean_accuracy": mean_accuracy(c),
        "frequency_weighted_iou": frequency_weighted_iou(c),
    }


def test_scores_match_torchmetrics():
    prediction, label = draw(3, 8, used=6)
    c = confusion_matrix(prediction, label, 8).numpy()
    want = multiclass_jaccard_index(prediction, label, 8, average="none", ignore_index=255)
    np.testing.assert_allclose(class_iou(c)[:6], want[:6].double(), rtol=1e-6)
    kept = label != 255
    micro = multiclass_accuracy(prediction[kept], label[kept], 8, average="micro")
    assert pixel_accuracy(c) == pytest.approx(float(micro), rel=1e-6)
    recall = multiclass_accuracy(prediction[kept], label[kept], 8, average="none")
    np.testing.assert_allclose(class_accuracy(c)[:6], recall[:6].double(), rtol=1e-6)
    weighted = multiclass_jaccard_index(prediction, label, 8, average="weighted", ignore_index=255)
    assert frequency_weighted_iou(c) == pytest.approx(float(weighted), rel=1e-6)


def test_batches_add_up_and_the_copy_stands_still():
    prediction, label = draw(4, 8)
    whole = Confusion(8)
    whole.update(prediction, label)
    parts = Confusion(8)
    for p, t in zip(prediction, label, strict=True):
        parts.update(p, t)
    np.testing.assert_array_equal(parts.numpy(), whole.numpy())
    before = parts.numpy()
    parts.update(prediction, label)
    np.testing.assert_array_equal(before * 2, parts.numpy())


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 4, 4)])
def test_nothing_counted_is_nan_not_a_score(shape):
    label = torch.full(shape, 255)
    c = confusion_matrix(torch.zeros(shape, dtype=torch.int64), label, 4).numpy()
    assert c.sum() == 0
    for value in (*summary(c).values(), miou(c, "zero")):
        assert np.isnan(value)


def test_absent_class_is_not_a_class_that_was_missed():
    missed = np.array([[4, 0, 0], [4, 0, 0], [0, 0, 0]])
    assert np.isnan(class_iou(missed)[2]) and class_iou(missed)[1] == 0
    assert miou(missed) == 0.25
    assert miou(missed, "zero") == pytest.approx(1 / 6)


def test_ignored_label_hides_its_prediction():
    label = torch.tensor([0, 255, 1])
    a, b = (confusion_matrix(torch.tensor([0, p, 1]), label, 3) for p in (0, 2))
    assert torch.equal(a, b) and a.sum() == 2


def test_ignore_index_may_be_any_label():
    got = confusion_matrix(torch.tensor([0, 0]), torch.tensor([-1, 0]), 2, ignore_index=-1)
    assert got.tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        ([0, 4], [0, 1], r"prediction holds 4: allowed are 0\.\.3"),
        ([0, -1], [0, 1], r"prediction holds -1"),
        ([0, 1], [0, 7], r"label holds 7: allowed are 0\.\.3 or ignore_index=255"),
        ([0, 1], [0, -2], r"label holds -2"),
        ([0.0, 1.0], [0, 1], r"prediction has dtype torch.float32"),
        ([0, 1], [True, False], r"label has dtype torch.bool"),
        ([0, 1, 2], [0, 1], r"prediction \(3,\) and label \(2,\)"),
    ],
)
def test_bad_input_is_named(prediction, label, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(torch.tensor(prediction), torch.tensor(label), 4)


def test_bad_matrices_and_policies_are_named():
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        miou(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="negative"):
        miou(np.array([[1, -1], [0, 1]]))
    with pytest.raises(ValueError, match="'skip', 'zero'"):
        miou(np.eye(2), "none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        Confusion(0)


def test_counts_beyond_float32_stay_exact():
    c = np.array([[2**40 + 1, 1], [0, 2**40]], np.int64)
    assert class_accuracy(c)[0] == (2**40 + 1) / (2**40 + 2)


def test_scores_need_no_torch():
    code = "import sys, harness.scores; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
