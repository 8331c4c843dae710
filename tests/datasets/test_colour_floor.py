from dataclasses import dataclass

import numpy as np
import pytest

from harness.datasets.base import fit_intensity_table, intensity_floors, table_confusion
from harness.datasets.colour import BITS, colour_floors, colour_histogram, fit_colour_table
from harness.metrics import miou

VOID = 255


@dataclass
class Pairs:
    images: np.ndarray
    labels: np.ndarray

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


def told_by_colour(seed=0, classes=4, shape=(3, 24, 24)):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, shape).astype(np.uint8)
    colours = np.array([(200, 0, 0), (0, 200, 0), (0, 0, 200), (70, 70, 70)], np.uint8)
    return Pairs(colours[labels] + rng.integers(0, 16, (*shape, 3), dtype=np.uint8), labels)


def test_floor_is_one_where_colour_tells_the_class_although_grey_does_not():
    split = told_by_colour()
    assert colour_floors(split, [split], 4) == [1.0]
    assert intensity_floors(split, [split], 4)[0] < 0.6


def test_a_colour_that_train_lacks_is_taken_for_the_nearest():
    train, test = told_by_colour(), told_by_colour(1)
    shifted = Pairs(test.images + np.uint8(20), test.labels)
    known = colour_histogram(train, 4).any(1)
    assert (colour_histogram(shifted, 4).any(1) & ~known).any()
    assert colour_floors(train, [shifted], 4) == [1.0]


def test_histogram_and_confusion_match_the_pixelwise_count():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, (2, 20, 20)).astype(np.uint8)
    images = np.clip(rng.normal(60 * labels[..., None] + [0, 40, 80], 30), 0, 255).astype(np.uint8)
    labels[:, :4] = VOID
    split = Pairs(images, labels)
    histogram = colour_histogram(split, 3)
    assert histogram.shape == (8**BITS, 3) and histogram.sum() == (labels != VOID).sum()
    known = np.flatnonzero(histogram.any(1))
    table = dict(zip(known.tolist(), fit_colour_table(histogram[known]).tolist(), strict=True))
    confusion = np.zeros((3, 3), int)
    for pixel, label in zip(images.reshape(-1, 3).tolist(), labels.ravel().tolist(), strict=True):
        if label != VOID:
            red, green, blue = (v >> (8 - BITS) for v in pixel)
            confusion[label, table[(red * 2**BITS + green) * 2**BITS + blue]] += 1
    assert colour_floors(split, [split], 3) == [miou(confusion)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [3, 8, 17])
def test_the_fit_comes_to_rest_where_the_one_by_one_fit_does(seed, classes):
    rng = np.random.default_rng([seed, classes])
    share = rng.dirichlet(np.full(classes, 0.3), size=300)
    usual = rng.dirichlet(np.ones(classes))
    histogram = rng.poisson(200 * share * usual)
    fast, slow = (miou(table_confusion(fit(histogram), histogram)) for fit in (fit_colour_table, fit_intensity_table))
    likelihood = np.argmax(histogram / np.maximum(histogram.sum(0), 1), axis=1)
    assert fast >= miou(table_confusion(likelihood, histogram))
    assert fast == pytest.approx(slow, abs=0.004)


def test_a_class_without_a_pixel_is_never_said():
    histogram = np.array([[10, 0, 1], [0, 0, 9], [1, 0, 1]])
    assert 1 not in fit_colour_table(histogram)
