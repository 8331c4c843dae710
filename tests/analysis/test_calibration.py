"""Do the intervals cover what they claim, and do tests find nothing where there is nothing? On simulated seeds.

Each check allows three standard errors of its own simulation. Everything is drawn from fixed streams.
"""

import numpy as np
import pytest

from harness.analysis import ranking
from harness.analysis.stats import (
    bootstrap_interval,
    detectable_difference,
    deviation_interval,
    holm,
    image_bootstrap,
    mean_interval,
    paired_difference,
)
from harness.metrics import hits_and_unions

SEEDS = (3, 5, pytest.param(10, marks=pytest.mark.slow))
TRUE = 0.01  # one percentage point


def simulated_error(share: float, trials: int) -> float:
    return 3 * float((share * (1 - share) / trials) ** 0.5)


def simulated(rng: np.random.Generator, methods: int, seeds: int) -> np.ndarray:
    """mIoU (methods, seeds) without any difference: what a seed does to all methods, and what it does to each."""
    return 0.6 + rng.normal(0, 0.02, seeds) + rng.normal(0, 0.008, (methods, seeds))


def by_seed(values: np.ndarray) -> dict[int, float]:
    return dict(enumerate(values.tolist()))


@pytest.mark.parametrize("seeds", SEEDS)
def test_false_wins(seeds: int) -> None:
    """Four methods against the baseline: the chance of any win or loss where nothing differs."""
    rng, trials, wins = np.random.default_rng(seeds), 1500, 0
    for _ in range(trials):
        none, *others = simulated(rng, 5, seeds)
        found = [paired_difference(by_seed(x), by_seed(none)).p_value for x in others]
        wins += min(holm([p for p in found if p is not None])) < 0.05
    assert wins / trials <= 0.05 + simulated_error(0.05, trials)


@pytest.mark.parametrize("seeds", SEEDS)
def test_coverage(seeds: int) -> None:
    """The paired t interval holds a known difference 95 % of the time, and so does the t interval of a mean."""
    rng, trials = np.random.default_rng(100 + seeds), 3000
    difference = mean = boot = 0
    for i in range(trials):
        none, better = simulated(rng, 2, seeds)
        found = paired_difference(by_seed(better + TRUE), by_seed(none))
        difference += found.low <= TRUE <= found.high  # type: ignore[operator]
        alone = mean_interval((0.6 + rng.normal(0, 0.02, seeds)).tolist())
        mean += alone.low <= 0.6 <= alone.high  # type: ignore[operator]
        if i < 600:
            resampled = bootstrap_interval(better + TRUE - none, rng, resamples=1000)
            boot += resampled.low <= TRUE <= resampled.high  # type: ignore[operator]
    allowed = simulated_error(0.95, trials)
    assert difference / trials == pytest.approx(0.95, abs=allowed)
    assert mean / trials == pytest.approx(0.95, abs=allowed)
    # Why the bootstrap over few seeds decides nothing: it covers less than it says.
    assert boot / 600 < {3: 0.85, 5: 0.92, 10: 0.95}[seeds]


@pytest.mark.parametrize("seeds", SEEDS)
def test_power_is_what_it_says(seeds: int) -> None:
    rng, trials = np.random.default_rng(200 + seeds), 2000
    smallest = detectable_difference(0.008 * 2**0.5, seeds)
    found = 0
    for _ in range(trials):
        none, better = simulated(rng, 2, seeds)
        p = paired_difference(by_seed(better + smallest), by_seed(none)).p_value
        found += p is not None and p < 0.05
    assert found / trials == pytest.approx(0.8, abs=simulated_error(0.8, trials))


@pytest.mark.parametrize("seeds", SEEDS)
def test_deviation_interval_covers(seeds: int) -> None:
    rng, trials, covered = np.random.default_rng(300 + seeds), 2000, 0
    for _ in range(trials):
        found = deviation_interval(float(rng.normal(0, 0.3, seeds).std(ddof=1)), seeds - 1)
        covered += found.low <= 0.3 <= found.high  # type: ignore[operator]
    assert covered / trials == pytest.approx(0.95, abs=simulated_error(0.95, trials))


def test_ranks_of_equal_methods_are_seldom_a_critical_difference_apart() -> None:
    rng, trials, methods, tasks = np.random.default_rng(7), 1000, 5, 12
    limit = ranking.critical_difference(methods, tasks)
    apart = sum(
        np.ptp(ranking.mean_ranks(rng.normal(0.6, 0.02, (tasks, 1)) + rng.normal(0, 0.01, (tasks, methods)))) > limit
        for _ in range(trials)
    )
    assert apart / trials <= 0.05 + simulated_error(0.05, trials)


@pytest.mark.parametrize("seeds", [5, pytest.param(10, marks=pytest.mark.slow)])
def test_the_chance_of_improvement_is_covered(seeds: int) -> None:
    """Over 12 tasks; the interval of bootstrapped runs is a little narrow for few of them, which is stated here."""
    rng, trials, tasks, covered = np.random.default_rng(seeds), 300, 12, 0
    true = 0.7601  # of N(0.01, 0.01) above N(0, 0.01): the normal distribution at 1/sqrt(2)
    for _ in range(trials):
        a, b = rng.normal(0.61, 0.01, (tasks, seeds)), rng.normal(0.6, 0.01, (tasks, seeds))
        found = ranking.probability_of_improvement(list(a), list(b), rng, resamples=500)
        covered += found.low <= true <= found.high  # type: ignore[operator]
    assert 0.85 <= covered / trials <= 0.98


def test_images_are_covered() -> None:
    """Images of varying difficulty and size, one side better by a known amount on all images there could be."""
    rng, trials, images, covered = np.random.default_rng(1), 300, 60, 0

    def split(count: int, better: float) -> np.ndarray:
        """Confusion matrices (count, 2, 2) of both sides: (2, count, 2, 2)."""
        pixels = rng.integers(200, 1800, count)
        skill = rng.beta(8, 2, count)
        sides = []
        for gain in (better, 0.0):
            right = [rng.binomial(n, np.clip(skill + gain, 0, 1)) for n in (pixels, 2000 - pixels)]
            wrong = [pixels - right[0], 2000 - pixels - right[1]]
            sides.append(np.array([[right[0], wrong[0]], [wrong[1], right[1]]]).transpose(2, 0, 1))
        return np.array(sides)

    everything = hits_and_unions(split(400_000, 0.02))
    true = image_bootstrap(everything[:1], everything[1:], rng, resamples=1).mean
    for _ in range(trials):
        sample = hits_and_unions(split(images, 0.02))
        found = image_bootstrap(sample[:1], sample[1:], rng, resamples=500)
        covered += found.low <= true <= found.high  # type: ignore[operator]
    assert covered / trials == pytest.approx(0.95, abs=simulated_error(0.95, trials) + 0.02)


@pytest.mark.parametrize("seeds", SEEDS)
def test_a_method_that_diverges_loses(seeds: int) -> None:
    """Equal where it trains, but one run in five diverges: it never comes out ahead more often than chance allows."""
    rng, trials, ahead, first = np.random.default_rng(seeds), 300, 0, 0
    for _ in range(trials):
        values = simulated(rng, 2, seeds)
        values[1, rng.random(seeds) < 0.2] = ranking.LOST
        found = ranking.probability_of_improvement([values[1]], [values[0]], rng, resamples=200)
        ahead += found.low is not None and found.low > 0.5
        first += ranking.mean_ranks(values.T)[1] < 1.5
    assert ahead / trials <= 0.05 and first / trials < 0.5
