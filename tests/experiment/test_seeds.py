import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import seeds


def test_streams_do_not_change_between_versions():
    """Resumed and repeated runs rest on these numbers."""
    assert seeds.derive(0, "augment", 3) == 3248100074690797057
    assert seeds.numpy_stream(1, "x").integers(0, 1000, 4).tolist() == [732, 90, 512, 767]
    assert seeds.batch_indices(0, 1, 4, 6) == [3, 1, 4, 0]


@given(st.integers(0, 2**63 - 1), st.text("aZ0_ é漢", max_size=5), st.integers(0, 100))
def test_a_seed_fits_everywhere(seed, name, number):
    derived = seeds.derive(seed, name, number)
    assert 0 <= derived < 2**63
    assert derived == seeds.derive(seed, name, number)


def test_streams_differ_in_every_part():
    parts = [
        (0, "a"),
        (1, "a"),
        (0, "b"),
        (0, "a", 0),
        (0, "a", 1),
        (0, "a", 10),
        (0, "a1", 0),
        (0, "a", "b"),
        (0, "ab"),
    ]
    assert len({seeds.derive(*part) for part in parts}) == len(parts)


@given(st.integers(0, 5), st.integers(1, 7), st.integers(1, 12))
def test_every_epoch_visits_each_sample_once(seed, batch_size, count):
    epochs = 3
    steps = -(-epochs * count // batch_size)
    seen = [i for step in range(steps) for i in seeds.batch_indices(seed, step, batch_size, count)]
    assert len(seen) == steps * batch_size
    for epoch in range(epochs):
        assert sorted(seen[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(st.integers(0, 20), st.integers(1, 6), st.integers(1, 9))
def test_a_step_needs_no_history_and_batches_only_cut_the_order(step, batch_size, count):
    order = [i for s in range((step + 1) * batch_size) for i in seeds.batch_indices(3, s, 1, count)]
    assert seeds.batch_indices(3, step, batch_size, count) == order[step * batch_size : (step + 1) * batch_size]


def test_epochs_and_seeds_are_ordered_differently():
    orders = {tuple(seeds.epoch_order(seed, epoch, 50).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_the_global_state_is_not_touched():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    seeds.numpy_stream(0, "x").random()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="0 samples; at least 1"):
        seeds.batch_indices(0, 0, 1, 0)
