"""The queues of features per class: writing in turn, which positions are chosen, means of regions, gathering."""

import tempfile
from itertools import combinations, product
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from harness.distillers import METHODS
from harness.distillers._queue import ClassQueue, choose_first, choose_own, gathered, region_means
from harness.distillers._sum import Sum
from harness.taps import NetworkInfo, Pair, TapInfo
from tests.support import dense
from tests.support.dense import EXAMPLES


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stream(seed=0):
    return torch.Generator().manual_seed(seed)


# The queue


@EXAMPLES
@given(
    data=st.data(),
    classes=st.integers(1, 3),
    size=st.integers(1, 6),
    width=st.integers(1, 3),
    images=st.integers(1, 3),
    steps=st.integers(1, 6),
)
def test_the_queue_is_written_in_turn(data, classes, size, width, images, steps):
    queue = ClassQueue(classes, size, width).double()
    most = data.draw(st.integers(1, size))
    entries, pointer = queue.entries.clone(), [0] * classes
    for step in range(steps):
        counts = data.draw(
            st.lists(
                st.lists(st.integers(0, most), min_size=classes, max_size=classes), min_size=images, max_size=images
            )
        )
        features = random(images, classes, most, width, seed=step)
        written, pointer = dense.where_written(pointer, size, counts)
        for (k, place), (image, f) in written.items():
            entries[k, place] = features[image, k, f]
        queue.enqueue(features, torch.tensor(counts))
        assert torch.equal(queue.entries, entries)
        assert queue.pointer.tolist() == pointer
        assert all(0 <= p < size for p in pointer)


def test_what_does_not_fit_goes_to_the_last_places_and_writing_starts_again():
    queue = ClassQueue(1, 5, 1)
    queue.entries.zero_()
    seen = []
    for start, count in ((1, 3), (11, 3), (21, 2), (31, 3), (41, 0)):
        queue.enqueue(torch.arange(start, start + 3.0).view(1, 1, 3, 1), torch.tensor([[count]]))
        seen.append(([int(x) for x in queue.entries.flatten()], int(queue.pointer)))
    assert seen == [
        ([1, 2, 3, 0, 0], 3),
        ([1, 2, 11, 12, 13], 0),
        ([21, 22, 11, 12, 13], 2),
        ([21, 22, 31, 32, 33], 0),  # an exact fit starts again, too
        ([21, 22, 31, 32, 33], 0),
    ]


def test_more_entries_than_the_queue_holds_are_refused():
    queue = ClassQueue(2, 3, 4)
    with pytest.raises(ValueError, match="4 entries per class and image are given; the queue holds 3"):
        queue.enqueue(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="enqueued is at most pixel_memory 3; given 4"):
        METHODS["cirkd"](dense.plain().pair, pixel_memory=3, enqueued=4)


def test_the_queue_is_state_and_starts_with_unit_vectors():
    queue = ClassQueue(3, 5, 7)
    torch.testing.assert_close(queue.entries.norm(dim=2), torch.ones(3, 5))
    assert queue.entries.flatten(0, 1).unique(dim=0).shape == (15, 7)
    assert list(queue.state_dict()) == ["entries", "pointer"] and not list(queue.parameters())
    features = torch.randn(1, 3, 2, 7, requires_grad=True)
    queue.enqueue(features, torch.full((1, 3), 2))
    assert not queue.entries.requires_grad


def test_a_sample_is_distinct_places_the_same_for_all_classes():
    queue = ClassQueue(3, 6, 1)
    queue.entries.copy_(torch.arange(18.0).view(3, 6, 1))
    seen = set()
    for seed in range(400):
        found = queue.sample(2, stream(seed)).view(3, 2).long()
        assert torch.equal(found - 6 * torch.arange(3)[:, None], found[:1].expand(3, 2))
        assert found[0, 0] != found[0, 1]
        seen.add(tuple(found[0].tolist()))
    assert len(seen) == 30, "every ordered pair of six places"
    assert torch.equal(queue.sample(6, stream()).sort(0).values, torch.arange(18.0).view(18, 1))
    assert torch.equal(queue.take(torch.tensor([4, 1])).flatten(), torch.tensor([4.0, 1, 10, 7, 16, 13]))


# Which positions


IMAGE = [2, 0, -1, 0, 2, 2, -1, 0, 2, 2, 1]  # 3 of class 0, 1 of class 1, 5 of class 2, none of class 3, 2 ignored
MEMBERS = {k: [p for p, label in enumerate(IMAGE) if label == k] for k in range(4)}


def events(found, counts, most):
    """How often each set of positions was chosen, by class; the counts are those of every image."""
    assert found.shape == (*counts.shape, most)
    sets = {k: {} for k in range(4)}
    for image, chosen in enumerate(found.tolist()):
        for k in range(4):
            assert counts[image, k] == min(most, len(MEMBERS[k]))
            meant = chosen[k][: counts[image, k]]
            assert len(set(meant)) == len(meant), "no position twice"
            key = tuple(sorted(meant))
            sets[k][key] = sets[k].get(key, 0) + 1
    return sets


@pytest.mark.parametrize("most", [1, 2, 4, 20])
@pytest.mark.parametrize("choose", [choose_own, choose_first])
def test_all_sets_of_positions_are_alike_likely(choose, most):
    """Of the class's own positions; `choose_first`: of the image's first, as many as the class has."""
    images = 3000
    found, counts = choose(torch.tensor(IMAGE).expand(images, -1), 4, most, stream())
    for k, sets in events(found, counts, most).items():
        allowed = MEMBERS[k] if choose is choose_own else range(len(MEMBERS[k]))
        possible = list(combinations(allowed, min(most, len(MEMBERS[k]))))
        assert set(sets) == set(possible)
        share = 1 / len(possible)
        for often in sets.values():
            assert abs(often - images * share) <= 4.5 * (images * share * (1 - share)) ** 0.5
        if choose is choose_own and most == 2 and k == 2:  # and each slot by itself, for the queue may be full
            slots = torch.stack([(found[:, k] == p).double().mean(0) for p in MEMBERS[k]])
            assert (slots - 1 / 5).abs().max() <= 4.5 * (0.16 / images) ** 0.5


@EXAMPLES
@given(
    data=st.data(),
    images=st.integers(1, 3),
    positions=st.integers(1, 9),
    classes=st.integers(1, 4),
    most=st.integers(1, 10),
    seed=st.integers(0, 2**32 - 1),
)
@pytest.mark.parametrize("choose", [choose_own, choose_first])
def test_positions_on_any_labels(choose, data, images, positions, classes, most, seed):
    row = st.lists(st.integers(-1, classes - 1), min_size=positions, max_size=positions)
    labels = data.draw(st.lists(row, min_size=images, max_size=images))
    found, counts = choose(torch.tensor(labels), classes, most, stream(seed))
    assert found.shape == (images, classes, most) and counts.shape == (images, classes)
    assert ((found >= 0) & (found < positions)).all(), "also what is not meant can be gathered"
    for i, k in product(range(images), range(classes)):
        members = [p for p in range(positions) if labels[i][p] == k]
        meant = found[i, k, : counts[i, k]].tolist()
        assert counts[i, k] == min(most, len(members)) == len(set(meant))
        assert set(meant) <= set(members if choose is choose_own else range(len(members)))
    again = choose(torch.tensor(labels), classes, most, stream(seed))
    assert torch.equal(found, again[0])


@EXAMPLES
@given(
    images=st.integers(1, 3),
    positions=st.integers(1, 9),
    classes=st.integers(1, 4),
    width=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_means_of_regions(images, positions, classes, width, seed):
    labels = torch.randint(-1, classes, (images, positions), generator=stream(seed))
    features = random(images, width, positions, seed=seed)
    features[0] *= seed % 3  # also an image of zeros
    means, present = region_means(features, labels, classes)
    expected = dense.region_means(features, labels, classes)
    torch.testing.assert_close(means, expected[0], rtol=1e-9, atol=1e-12)
    assert torch.equal(present, expected[1])


# Several processes


def test_one_process_gathers_nothing():
    given = (torch.randn(2, 3), torch.tensor([1, 2]))
    assert all(a is b for a, b in zip(gathered(*given), given, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        store = dist.FileStore(str(Path(folder) / "store"), 1)
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        try:
            assert all(a is b for a, b in zip(gathered(*given), given, strict=True))
        finally:
            dist.destroy_process_group()


def test_several_processes_are_in_the_order_of_their_ranks(monkeypatch):
    def all_gather(parts, x):
        assert x.is_contiguous()
        for rank, part in enumerate(parts):
            part.copy_(x + 10 * rank)

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 3)
    monkeypatch.setattr(dist, "all_gather", all_gather)
    features, counts = gathered(torch.arange(4.0).view(2, 2).T, torch.tensor([1, 2]))
    assert features.tolist() == [[0, 2], [1, 3], [10, 12], [11, 13], [20, 22], [21, 23]]
    assert counts.tolist() == [1, 2, 11, 12, 21, 22]


def test_queues_are_not_sent_to_other_processes():
    """They are hundreds of megabytes, and every process fills its own alike."""
    tap = TapInfo(4, 8)
    pair = Pair(NetworkInfo({}, tap, tap), NetworkInfo({}, tap, tap), 3)
    cirkd = METHODS["cirkd"](pair)
    names = {"pixels.entries", "pixels.pointer", "regions.entries", "regions.pointer"}
    assert set(cirkd.equal_buffers()) == names < set(dict(cirkd.named_buffers()))
    both = Sum({"kd": METHODS["kd"](pair), "cirkd": cirkd})
    assert set(both.equal_buffers()) == {f"parts.1.{name}" for name in names} < set(dict(both.named_buffers()))
