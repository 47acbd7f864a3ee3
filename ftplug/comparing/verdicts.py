"""A candidate against the baseline: what is measured of it, and which verdict follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ftplug.comparing import statistics

if TYPE_CHECKING:
    from ftplug.comparing.statistics import Floats, Variance
    from ftplug.comparing.summary import Verdict

ALPHA = 0.05
MOST_SEEDS = 100  # more are not somebody's plan


@dataclass(frozen=True)
class Contrast:
    """Candidate minus baseline, more being better: the estimate, intervals, p before correction.

    ``percentiles`` is the 95 % interval as the bootstrap has it; ``interval`` and ``interval_90``
    are corrected (:func:`statistics.interval`).
    """

    difference: float
    interval: tuple[float, float]
    interval_90: tuple[float, float]
    percentiles: tuple[float, float]
    p: float
    variance: Variance

    @property
    def seeds(self) -> int:
        """Over how many seeds."""
        return self.variance.n_seeds


def of_outcomes(
    differences: Floats, *, resamples: int = statistics.RESAMPLES, seed: int = 0
) -> Contrast:
    """Return the contrast of differences by example, float64 (seeds, examples).

    ``resamples`` is the number of permutations, and of bootstrap samples, at most; ``seed`` seeds
    both.
    """
    rng = np.random.default_rng(seed)
    means = statistics.bootstrap_means(differences, rng, resamples=resamples)
    p = statistics.p_value(differences, resamples=resamples, seed=seed)
    return _contrast(float(differences.mean()), means, p, statistics.variance(differences))


def of_resamples(
    resampled: Floats,
    by_seed: Floats,
    n_examples: int,
    *,
    resamples: int = statistics.RESAMPLES,
    seed: int = 0,
) -> Contrast:
    """Return the contrast of a metric that exists on resamples alone (F1, MCC).

    ``resampled`` is (seeds, resamples), the difference on the same resamples of the examples for
    all seeds; ``by_seed``, (seeds,), the difference on all examples. A bootstrap sample takes
    a resample of the examples, and seeds with replacement.
    """
    rng = np.random.default_rng(seed)
    count = max(resamples, resampled.shape[1])
    drawn = statistics.draw_seeds(len(resampled), count, rng)
    at = np.arange(count) % resampled.shape[1]  # each resample of the examples equally often
    means = resampled.T[at[:, None], drawn].mean(axis=1)
    difference = float(by_seed.mean())
    p = statistics.resampled_p_value(resampled.mean(axis=0), difference)
    found = statistics.resampled_variance(resampled, by_seed, n_examples)
    return _contrast(difference, means, p, found)


def _contrast(difference: float, means: Floats, p: float, found: Variance) -> Contrast:
    wide, narrow = (
        statistics.interval(means, difference, found, confidence) for confidence in (0.95, 0.9)
    )
    percentiles = statistics.percentile_interval(means, 0.95)
    return Contrast(difference, wide, narrow, percentiles, p, found)


def verdict(contrast: Contrast, p: float, delta: float) -> Verdict:
    """Return the verdict; ``p`` is the adjusted one, ``delta`` in the metric's own unit.

    With one seed nothing is decided: how much seeds vary is not known.
    """
    if contrast.seeds < 2:
        return "not_decided"
    low, high = contrast.interval
    if p < ALPHA and low > 0:
        return "better"
    if p < ALPHA and high < 0:
        return "worse"
    low, high = contrast.interval_90
    return "equivalent" if -delta <= low and high <= delta else "not_decided"


def more_seeds(contrast: Contrast, p: float, delta: float) -> int | None:
    """Return how many more seeds would decide, if difference and variances stay as estimated.

    None with one seed, and where not even :data:`MOST_SEEDS` would: what is left then varies
    between examples. ``p`` is the adjusted one: the correction stays what it is.
    """
    from scipy.stats import norm

    if contrast.seeds < 2:
        return None
    away = abs(contrast.difference)
    corrected = ALPHA * min(1.0, contrast.p / p)
    critical = float(norm.ppf(1 - corrected / 2))
    for count in range(contrast.seeds + 1, MOST_SEEDS + 1):
        expected = contrast.variance.at(count)
        differs = away > max(expected.half_width(0.95), critical * expected.examples**0.5)
        if differs or away + expected.half_width(0.9) <= delta:
            return count - contrast.seeds
    return None
