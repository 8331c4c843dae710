"""The dev split: its size, whole groups, and every class on both sides."""

import numpy as np
import pytest

from harness.datasets import splits


def test_groups_come_near_to_the_fraction_wanted():
    groups = [f"c{i}" for i, n in enumerate([50, 10, 20, 5, 15, 40, 60, 30]) for _ in range(n)]
    for seed in range(50):
        marked = splits.by_group(groups, 0.2, np.random.default_rng(seed))
        assert 0 < marked.sum() < len(groups)
        assert {g for g, m in zip(groups, marked, strict=True) if m}.isdisjoint(
            {g for g, m in zip(groups, marked, strict=True) if not m}
        )
        assert abs(marked.sum() - 46) <= 30
    assert splits.by_group(["a"] * 5 + ["b"] * 5, 0.01, np.random.default_rng(0)).sum() == 5
    assert splits.by_group(["a"] * 5 + ["b"] * 5, 0.99, np.random.default_rng(0)).sum() == 5
    with pytest.raises(ValueError, match="whole groups"):
        splits.by_group(["a"] * 5, 0.5, np.random.default_rng(0))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_each_class_is_split_alike(fraction):
    rng = np.random.default_rng(1)
    present = rng.random((400, 12)) < np.geomspace(0.02, 0.9, 12)
    marked = splits.by_presence(present, fraction, np.random.default_rng(2))
    assert marked.sum() == round(400 * fraction)
    wanted = present.sum(0) * fraction
    off = np.abs(present[marked].sum(0) - wanted)
    assert (off <= np.maximum(2, 0.15 * wanted)).all()
    np.testing.assert_array_equal(marked, splits.by_presence(present, fraction, np.random.default_rng(2)))
    assert (marked != splits.by_presence(present, fraction, np.random.default_rng(3))).any()


def test_a_class_in_a_single_image_stays_in_train():
    present = np.zeros((50, 3), bool)
    present[:, 0] = True
    present[7, 1] = True
    for seed in range(20):
        marked = splits.by_presence(present, 0.1, np.random.default_rng(seed))
        assert marked.sum() == 5 and not marked[7]


def test_images_without_any_class_are_dealt_out_too():
    marked = splits.by_presence(np.zeros((20, 3), bool), 0.25, np.random.default_rng(0))
    assert marked.sum() == 5


def test_at_random_takes_at_least_one_and_leaves_one():
    for count, fraction, want in ((10, 0.3, 3), (2, 0.01, 1), (2, 0.99, 1), (1000, 0.0001, 1)):
        assert splits.at_random(count, fraction, np.random.default_rng(0)).sum() == want
