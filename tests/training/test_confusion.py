import subprocess
import sys

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_jaccard_index,
)

from harness.metrics import (
    class_accuracy,
    class_iou,
    frequency_weighted_iou,
    mean_accuracy,
    miou,
    of_row,
    pixel_accuracy,
    summary,
)
from harness.training.confusion import Confusion, argmax, confusion_matrix


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
    code = "import sys, harness.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("classes", [2, 19, 150, 256, 300])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_confusion_matches_torchmetrics(classes, dtype):
    """300 classes and a label of -1 do not fit into a byte: both ways of counting are met here."""
    prediction, label = draw(classes, classes, used=min(classes, 100) if dtype == torch.uint8 else classes)
    label[label == 255] = 1
    for ignore in (255,) if dtype == torch.uint8 else (255, -1, classes):
        void = label.clone()
        void[:, ::3] = ignore
        got = confusion_matrix(prediction.to(dtype), void.to(dtype), classes, ignore)
        want = multiclass_confusion_matrix(prediction, void, classes, ignore_index=ignore)
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_a_label_below_k_may_be_the_ignored_one():
    prediction, label = draw(5, 5, ignored=0)
    for dtype in (torch.uint8, torch.int64):
        got = confusion_matrix(prediction.to(dtype), label.to(dtype), 5, ignore_index=2)
        np.testing.assert_array_equal(got.numpy(), loop_confusion(prediction, label, 5, 2))


@pytest.mark.parametrize("ignore", [-1, 256, 300, -256])
def test_an_ignored_label_that_is_no_byte_hides_no_byte(ignore):
    """-1 would be the last row of a table, and 256 a row beyond it."""
    label = torch.tensor([0, 1, 3])
    assert confusion_matrix(label, label, 4, ignore).diagonal().tolist() == [1, 1, 0, 1]
    with pytest.raises(ValueError, match=f"label holds 255: allowed are 0..3 or ignore_index={ignore}"):
        confusion_matrix(label, torch.tensor([0, 1, 255]), 4, ignore)


def test_a_cell_beyond_what_float32_counts_is_exact():
    """2**24 + 1 is the first whole number that float32 does not hold; OpenCV counts in float32."""
    many = torch.zeros(2**24 + 3, dtype=torch.uint8)
    got = confusion_matrix(many, many, 2)
    assert got.tolist() == [[2**24 + 3, 0], [0, 0]]


@pytest.mark.parametrize("view", ["transposed", "expanded", "strided", "backwards"])
def test_layout_does_not_matter(view):
    prediction, label = draw(9, 9)
    change = {
        "transposed": lambda x: x.transpose(0, 2),
        "expanded": lambda x: x[:1].expand(4, -1, -1),
        "strided": lambda x: x[..., ::2],
        "backwards": lambda x: x.flip(-1),
    }[view]
    prediction, label = change(prediction), change(label)
    np.testing.assert_array_equal(
        confusion_matrix(prediction, label, 9).numpy(), loop_confusion(prediction, label, 9, 255)
    )


OUT_OF_RANGE = [
    ([0, 4], [0, 1], r"prediction holds 4: allowed are 0\.\.3"),
    ([0, 4], [0, 255], r"prediction holds 4: allowed are 0\.\.3"),  # hidden by the ignored label, wrong all the same
    ([0, 260], [0, 1], "prediction holds 260"),  # 4 in a byte
    ([0, 256], [0, 1], "prediction holds 256"),  # 0 in a byte
    ([0, 1], [0, 254], r"label holds 254: allowed are 0\.\.3 or ignore_index=255"),
    ([0, 1], [0, 4], "label holds 4"),
    ([0, 1], [256, 1], "label holds 256"),
    ([0, 1], [0, -1], "label holds -1"),  # 255 in a byte
    ([-5, 9], [-5, 9], "prediction holds -5"),
    ([2**40, 0], [0, 0], f"prediction holds {2**40}"),
]
DTYPES = (torch.uint8, torch.int16, torch.int64)


def fits(values, dtype):
    return all(torch.iinfo(dtype).min <= value <= torch.iinfo(dtype).max for value in values)


@pytest.mark.parametrize(
    ("prediction", "label", "message", "dtype"),
    [(p, t, message, d) for p, t, message in OUT_OF_RANGE for d in DTYPES if fits(p + t, d)],
)
@pytest.mark.parametrize("deferred", [False, True])
def test_values_out_of_range_are_named_whatever_the_way(prediction, label, message, dtype, deferred):
    good = torch.zeros(2, dtype=dtype)
    counts = Confusion(4)
    counts.deferred = deferred  # as on a GPU, where the check would stop the queue at every batch
    counts.update(good, good)
    bad = torch.tensor(prediction, dtype=dtype), torch.tensor(label, dtype=dtype)
    if deferred:
        counts.update(*bad)
        counts.update(good, good)
    with pytest.raises(ValueError, match=message):
        counts.numpy() if deferred else counts.update(*bad)


@pytest.mark.parametrize("ignore", [255, 3, -1])
def test_the_deferred_way_counts_the_same(ignore):
    now, later = Confusion(8, ignore), Confusion(8, ignore)
    later.deferred = True
    for seed in range(3):
        prediction, label = draw(seed, 8)
        label[label == 255] = ignore
        now.update(prediction, label)
        later.update(prediction, label.to(torch.int16))
    later.update(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.int64))
    np.testing.assert_array_equal(now.numpy(), later.numpy())


def scores(shape, seed=0, dtype=torch.float32):
    """Small whole numbers: nearly every pixel has ties."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=g).to(dtype)


LAYOUTS = {
    "plain": lambda x: x,
    "cropped": lambda x: x[..., :-2, :-3],
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(-1, -2),
    "mirrored": lambda x: x.flip(-1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("classes", [1, 2, 19, 150, 256, 300])
def test_argmax_is_torchs_with_its_ties(classes, layout):
    x = LAYOUTS[layout](scores((2, classes, 9, 14), classes))
    got = argmax(x)
    assert got.dtype == (torch.uint8 if classes <= 256 else torch.int64)
    assert torch.equal(got.long(), x.argmax(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_argmax_of_other_dtypes(dtype):
    x = scores((1, 5, 8, 8), dtype=dtype)
    assert torch.equal(argmax(x).long(), x.argmax(1))


@pytest.mark.parametrize(
    "special", [[float("nan")], [float("inf"), -float("inf")], [0.0, -0.0], [float("nan"), float("inf")]]
)
def test_argmax_of_values_that_do_not_compare(special):
    """torch.argmax takes the first NaN for the largest, and -0 for as large as 0."""
    g = torch.Generator().manual_seed(1)
    x = scores((3, 6, 40, 41), 2).clamp(-1, 0)
    for value in special:
        x[torch.rand(x.shape, generator=g) < 0.2] = value
    x[1] = scores((6, 40, 41), 3)  # one image without them
    assert torch.equal(argmax(x).long(), x.argmax(1))


def test_argmax_of_blocks_and_their_rest(monkeypatch):
    from harness.training import confusion as metrics

    x = scores((2, 7, 33, 10), 4)
    x[0, 3, 20, 4] = float("nan")
    for block in (1, 10, 25, 40, 330, 10**6):
        monkeypatch.setattr(metrics, "BLOCK", block)
        assert torch.equal(argmax(x).long(), x.argmax(1)), block
        label = x.argmax(1)
        assert confusion_matrix(label, label, 7).sum() == 660


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 4, 0, 3)])
def test_argmax_of_nothing(shape):
    assert argmax(torch.zeros(shape)).shape == (shape[0], *shape[2:])


def test_argmax_names_what_is_no_batch_of_scores():
    with pytest.raises(ValueError, match=r"\(N, K, H, W\) with K >= 1; given \(3, 4, 4\)"):
        argmax(torch.zeros(3, 4, 4))


@pytest.mark.gpu
def test_a_gpu_counts_what_a_cpu_counts():
    x = scores((2, 19, 33, 47), 5)
    x[0, 3, 20, 4] = float("nan")
    prediction, (_, label) = argmax(x), draw(6, 19, shape=(2, 33, 47))
    there = argmax(x.cuda())
    assert torch.equal(there.cpu(), prediction)
    here, on_gpu = Confusion(19), Confusion(19, device="cuda")
    for _ in range(2):
        here.update(prediction, label)
        on_gpu.update(there, label.cuda())
    np.testing.assert_array_equal(on_gpu.numpy(), here.numpy())
    assert torch.equal(confusion_matrix(there, label.cuda(), 19).cpu(), confusion_matrix(prediction, label, 19))
    on_gpu.update(there, torch.full_like(label, 19).cuda())
    with pytest.raises(ValueError, match="label holds 19"):
        on_gpu.numpy()


def test_all_scores_of_a_row():
    confusion = [[8, 2, 0], [0, 10, 0], [0, 0, 0]]
    flat = [n for line in confusion for n in line]
    row = {
        "class_names": ["a", "b", "c"],
        "absent_policy": "skip",
        "dev_confusion": flat,
        "val_confusion": None,
        "val_boundary_confusion": [0] * 9,
    }
    found = of_row(row)
    assert found.keys() == {"dev", "val_boundary"}
    assert found["dev"]["class_iou"] == {"a": 0.8, "b": pytest.approx(10 / 12), "c": None}
    assert found["dev"]["miou"] == pytest.approx((0.8 + 10 / 12) / 2)
    assert found["dev"]["pixel_accuracy"] == 0.9
    assert set(found["val_boundary"]["class_iou"].values()) == {None} and found["val_boundary"]["miou"] is None
    zero = of_row({**row, "absent_policy": "zero"})
    assert zero["dev"]["miou"] == pytest.approx((0.8 + 10 / 12) / 3)
