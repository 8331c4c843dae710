"""CIRKD's terms against its queues: the equation in loops, what a step writes, and what it compares with."""

from itertools import combinations, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.distillers import METHODS
from harness.distillers.cirkd import memory_loss
from tests.support import dense
from tests.support.dense import EXAMPLES, TEMPERATURES, WEIGHTS, mean, scenes, unit


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense_memory(anchors, teacher, entries, tau, temperature):
    """Lists of unit vectors; temperatures as the docstring has them: (cosine / tau) / T."""
    rows = []
    for a, t in zip(anchors, teacher, strict=True):
        ours = torch.stack([(a * e).sum() / tau / temperature for e in entries])
        theirs = torch.stack([(t * e).sum() / tau / temperature for e in entries])
        rows.append(dense.divergence(theirs, ours))
    return temperature**2 * mean(rows)


def projected(x, distiller):
    """1x1 convolution, normalisation over the batch, ReLU, 1x1 convolution."""
    first, scale, shift, last = distiller.parameters()
    x = dense.convolved(x, first)
    channels = []
    for c in range(x.shape[1]):
        values = x[:, c]
        variance = (values - values.mean()).square().mean()
        channels.append((values - values.mean()) / (variance + 1e-5).sqrt() * scale[c] + shift[c])
    return dense.convolved(torch.stack(channels, 1).clamp(min=0), last)


@pytest.mark.parametrize("convention", ["canonical", "cirkd"])
@EXAMPLES
@given(
    scene=scenes(least=2, most=4, flat=False),
    weights=st.tuples(WEIGHTS, WEIGHTS, WEIGHTS),
    tau=st.sampled_from([0.1, 1.0]),
    temperature=TEMPERATURES,
    memories=st.tuples(st.integers(2, 7), st.integers(1, 4), st.integers(1, 2)),
)
def test_cirkd_against_its_queues(convention, scene, weights, tau, temperature, memories):
    """All entries are compared with, so that the sample is no matter; queues as they are after the step."""
    pixel, region, kd = weights
    distiller = scene.build(
        METHODS["cirkd"], batch=0.0, pixel=pixel, region=region, kd=kd, tau=tau, temperature=temperature,
        pixel_memory=memories[0], region_memory=memories[1], enqueued=memories[2], convention=convention,
    )  # fmt: skip
    queues = {"pixel": getattr(distiller, "pixels", None), "region": getattr(distiller, "regions", None)}
    assert [queue is not None for queue in queues.values()] == [pixel > 0, region > 0]
    assert len(list(distiller.parameters())) == (4 if pixel or region else 0)
    for module in distiller.modules():  # away from the start, where the projection has scale 1 and shift 0
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.copy_(1 + scene.random(module.num_features) / 4)
            module.bias.data.copy_(scene.random(module.num_features).abs())
    before = {name: queue.entries.clone() for name, queue in queues.items() if queue is not None}

    terms = distiller(scene.view)

    theirs = scene.theirs["decoder"]
    labels = scene.classes_at(theirs.shape[-2:])
    teacher = [[unit(f) for f in image.flatten(1).T] for image in theirs]
    kept = [(i, p) for i, image in enumerate(labels.flatten(1).tolist()) for p, label in enumerate(image) if label >= 0]
    expected = {}
    if pixel or region:
        ours = projected(scene.matched("decoder"), distiller).flatten(2)
        anchors, targets = [unit(ours[i, :, p]) for i, p in kept], [teacher[i][p] for i, p in kept]
        for name, weight in (("pixel", pixel), ("region", region)):
            if weight:
                entries = queues[name].entries.flatten(0, 1)
                loss = dense_memory(anchors, targets, entries, tau, temperature) if kept else 0 * ours.sum()
                expected[name] = weight * loss
    scene.agree(terms, expected | dense.kd_of(scene, kd), *distiller.parameters())

    if pixel:
        check_pixels(queues["pixel"], before["pixel"], labels.flatten(1), teacher, memories[2], convention)
    if region:
        means, present = dense.region_means(
            torch.stack([torch.stack(f, 1) for f in teacher]), labels.flatten(1), scene.classes
        )
        entries = before["region"]
        written, pointer = dense.where_written([0] * scene.classes, memories[1], present.tolist())
        for (k, place), (image, _) in written.items():
            entries[k, place] = means[image, k]
        torch.testing.assert_close(queues["region"].entries, entries, rtol=1e-9, atol=1e-12)
        assert queues["region"].pointer.tolist() == pointer


def check_pixels(queue, before, labels, teacher, enqueued, convention):
    """Every place that was written to holds a feature of the class's own, or of the image's first positions."""
    classes, size, _ = before.shape
    left, counts = {}, []
    for i, image in enumerate(labels.tolist()):
        members = [[p for p, label in enumerate(image) if label == k] for k in range(classes)]
        counts.append([min(enqueued, len(own)) for own in members])
        for k, own in enumerate(members):
            allowed = own if convention == "canonical" else range(len(own))
            left[i, k] = [teacher[i][p] for p in allowed]
    written, pointer = dense.where_written([0] * classes, size, counts)
    assert queue.pointer.tolist() == pointer
    for k, place in product(range(classes), range(size)):
        entry = queue.entries[k, place]
        if (k, place) not in written:
            assert torch.equal(entry, before[k, place])
            continue
        candidates = left[written[k, place][0], k]
        match = next(n for n, feature in enumerate(candidates) if (feature - entry).abs().max() < 1e-12)
        del candidates[match]  # no position twice


def test_without_labels_the_memory_terms_are_zero():
    anchors = random(4, 3).requires_grad_()
    loss = memory_loss(anchors, random(4, 3), random(5, 3), 0.1, 1.0, torch.zeros(4, dtype=torch.bool))
    assert loss == 0 and (torch.autograd.grad(loss, anchors)[0] == 0).all()
    scene = dense.plain(ignored=1.0)
    distiller = scene.build(METHODS["cirkd"], pixel_memory=20, region_memory=3)
    before = {name: x.clone() for name, x in distiller.named_buffers() if "running" not in name and "num" not in name}
    terms = distiller(scene.view)
    assert terms["pixel"] == terms["region"] == 0 < terms["batch"]
    leaves = [scene.ours["decoder"], *distiller.parameters()]
    assert all(g.abs().max() == 0 for g in torch.autograd.grad(terms["pixel"] + terms["region"], leaves))
    now = dict(distiller.named_buffers())
    assert set(before) == {f"{queue}.{part}" for queue in ("pixels", "regions") for part in ("entries", "pointer")}
    assert all(torch.equal(x, now[name]) for name, x in before.items())


def test_the_teachers_features_at_ignored_positions_are_not_remembered():
    scene = dense.plain(hw=(4, 5), label_hw=(4, 5), ignored=0.5)
    away = scene.classes_at((4, 5)) < 0
    assert away.any() and not away.all()
    results = []
    for scale in (1.0, 1000.0):
        teacher = torch.where(away[:, None], scale * scene.theirs["decoder"].flip(1), scene.theirs["decoder"])
        distiller = scene.build(METHODS["cirkd"], pixel_memory=30, region_memory=3)
        view = scene.shown(decoder=(scene.ours["decoder"], teacher))
        view.generator.manual_seed(3)
        terms = distiller(view)
        results.append((terms["pixel"], terms["region"], distiller.pixels.entries, distiller.regions.entries))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("name", ["pixel", "region"])
def test_a_step_compares_with_a_part_of_the_queue(name):
    """contrast // classes + 1 entries of each class, the same places in all, others in another step."""
    seen = set()
    for seed in range(12):
        scene = dense.plain(classes=3, hw=(2, 2), seed=seed)
        sizes = {f"{name}_memory": 5, f"{name}_contrast": 4, "enqueued": 1}
        others = {"batch": 0.0, "kd": 0.0, "pixel": 0.0, "region": 0.0}
        distiller = scene.build(METHODS["cirkd"], **(others | {name: 1.0}), **sizes)
        (term,) = distiller(scene.view).values()
        labels = scene.classes_at((2, 2)).flatten()
        ours = projected(scene.ours["decoder"], distiller).flatten(2).mT.flatten(0, 1)[labels >= 0]
        theirs = scene.theirs["decoder"].flatten(2).mT.flatten(0, 1)[labels >= 0]
        anchors, targets = [unit(a) for a in ours], [unit(t) for t in theirs]
        entries = (distiller.pixels if name == "pixel" else distiller.regions).entries
        values = {
            places: dense_memory(anchors, targets, entries[:, list(places)].flatten(0, 1), 0.1, 1.0).item()
            for places in combinations(range(5), 2)
        }
        (chosen,) = [places for places, value in values.items() if value == pytest.approx(term.item(), rel=1e-9)]
        seen.add(chosen)
    assert len(seen) > 3
