"""What paired differences say about two candidates: a p-value, an interval, how it varies.

``differences`` is candidate minus baseline, float64 of shape (seeds, examples): the same examples
for all seeds. Every function draws from a generator seeded by a number, so that the same outcomes
give the same summary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

RESAMPLES = 9_999
_AT_ONCE = 2**21  # indices drawn at once: 16 MB, whatever the number of examples
_FLIPS = 20_000_000  # signs drawn in all: with more than 2,000 differences fewer permutations do
_DRAWS = 100_000_000  # examples drawn in all: with more than 10,000 fewer resamples do


def affordable(most: int, examples: int, in_all: int) -> int:
    """Return how many resamples to draw: ``most``, or what ``in_all`` allows, at least 999."""
    return min(most, max(999, in_all // max(examples, 1)))


def p_value(differences: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Return the two-sided p of a permutation test on the differences averaged over seeds.

    ``scipy.stats.permutation_test`` with type ``samples`` and one sample: under the null
    hypothesis each example's difference is as likely to have the other sign. Differences of 0 have
    no sign and are left out, which changes the means but not their order, so p stays. Exact where
    2^n is at most ``resamples``; above 2,000 differences there are fewer, 999 from 20,000 on.
    """
    from scipy.stats import permutation_test

    mean = differences.mean(axis=0)
    mean = mean[np.abs(mean) > 1e-12]  # averages that are 0 but for rounding
    if mean.size < 2:
        return 1.0  # either sign gives as large a mean
    found = permutation_test(
        (mean,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=affordable(resamples, mean.size, _FLIPS),
        batch=max(1, _AT_ONCE // (2 * mean.size)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def resampled_p_value(resampled: Floats, difference: float) -> float:
    """Return the two-sided p of a difference whose resamples, float64 (resamples,), are known.

    The bootstrap's: how often a resample is at least as far from ``difference`` as 0 is. With
    1,000 resamples it is at least 1/1,001.
    """
    away = np.abs(resampled - difference)
    at_least = np.count_nonzero(away >= abs(difference) * (1 - 1e-12))
    return (1 + at_least) / (1 + resampled.size)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values, in the order given (neither scipy nor sklearn has them)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((p.size - np.arange(p.size)) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in adjusted]


def bootstrap_means(
    differences: Floats,
    rng: np.random.Generator,
    *,
    resamples: int = RESAMPLES,
    seeds: bool = True,
    examples: bool = True,
) -> Floats:
    """Return the two-level bootstrap's means, (resamples,): seeds drawn, then examples.

    Each resample draws seeds with replacement, then examples with replacement, the same examples
    for all drawn seeds. A level whose flag is False stays as it is: then the draws, and so the
    means, are those of ``scipy.stats.bootstrap`` with the same generator. Above 10,000 examples
    there are fewer resamples, 999 from 100,000 on.
    """
    resamples = affordable(resamples, differences.shape[1], _DRAWS)
    drawn = draw_seeds(len(differences), resamples, rng) if seeds else None
    if not examples:
        fixed = differences.mean(axis=1)
        return _over_seeds(np.broadcast_to(fixed, (resamples, fixed.size)), drawn)
    by_seed = np.empty((resamples, len(differences)))
    for rows, picked in _drawn_examples(differences.shape[1], resamples, rng):
        for column, one in enumerate(differences):
            by_seed[rows, column] = one[picked].mean(axis=1)
    return _over_seeds(by_seed, drawn)


def draw_seeds(count: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return seeds drawn with replacement: numbers below ``count``, (resamples, count)."""
    return rng.integers(0, count, (resamples, count))


def _drawn_examples(
    count: int, resamples: int, rng: np.random.Generator
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield some resamples at a time, and the examples of each, (some, count)."""
    batch = max(1, _AT_ONCE // count)
    for start in range(0, resamples, batch):
        stop = min(start + batch, resamples)
        yield slice(start, stop), rng.integers(0, count, (stop - start, count))


def _over_seeds(by_seed: Floats, drawn: np.ndarray | None) -> Floats:
    chosen = by_seed if drawn is None else np.take_along_axis(by_seed, drawn, axis=1)
    return np.asarray(chosen.mean(axis=1))


@dataclass(frozen=True)
class Variance:
    """The variance of a mean difference by its source, as estimated from crossed data.

    With seeds and examples as crossed random effects (https://doi.org/10.1214/07-AOAS122):
    ``seeds`` is the variance of the seeds' means divided by their number, ``examples`` that of the
    examples' means divided by theirs. What an example does at one seed alone is in both of them:
    ``both`` is its share.
    """

    seeds: float
    examples: float
    both: float
    n_seeds: int
    n_examples: int

    @property
    def excess(self) -> float:
        """What seeds add to the variance that examples show already; 0 with one seed.

        ``both`` stands in ``examples`` already. Of few seeds not all of it is taken off, none of
        two, half of three: their variance may be small by luck, and must not vanish then.
        """
        if self.n_seeds == 1:
            return 0.0
        return max(0.0, self.seeds - self.both * (self.n_seeds - 2) / (self.n_seeds - 1))

    @property
    def total(self) -> float:
        """The variance of the mean difference over new seeds and new examples."""
        return self.examples + self.excess

    def half_width(self, confidence: float) -> float:
        """Return the half width of Student's interval.

        The quantile lies between that of the examples and that of the seeds, with the squared
        share of each variance as its weight, as in Satterthwaite's formula. He weighs 1 / degrees
        of freedom, which is too narrow where seeds vary most and are two or three.
        """
        from scipy.stats import t

        tail = (1 + confidence) / 2
        quantile = float(t.ppf(tail, max(1, self.n_examples - 1)))
        if self.excess:
            of_seeds = float(t.ppf(tail, self.n_seeds - 1))
            quantile += max(0.0, of_seeds - quantile) * (self.excess / self.total) ** 2
        return float(quantile * np.sqrt(self.total))

    def at(self, n_seeds: int) -> Variance:
        """Return what it would be with another number of seeds, all else being equal."""
        shrunk = self.n_seeds / n_seeds
        examples = max(0.0, self.examples - self.both) + self.both * shrunk
        both = self.both * shrunk
        return Variance(self.seeds * shrunk, examples, both, n_seeds, self.n_examples)


def variance(differences: Floats) -> Variance:
    """Return the variance of the mean of differences, (seeds, examples)."""
    seeds, examples = differences.shape
    by_seed, by_example = differences.mean(axis=1), differences.mean(axis=0)
    of_examples = _variance(by_example) / examples
    if seeds == 1:
        return Variance(0.0, of_examples, 0.0, seeds, examples)
    rest = differences - by_example - (by_seed - by_seed.mean())[:, None]
    free = (seeds - 1) * max(1, examples - 1)
    both = float((rest**2).sum()) / free / differences.size
    return Variance(_variance(by_seed) / seeds, of_examples, both, seeds, examples)


def resampled_variance(resampled: Floats, by_seed: Floats, n_examples: int) -> Variance:
    """Return it for a metric that exists on resamples of the examples alone.

    ``resampled`` is (seeds, resamples), of the same resamples for all seeds; ``by_seed``, (seeds,),
    are the differences on all examples.
    """
    seeds, resamples = resampled.shape
    of_examples = _variance(resampled.mean(axis=0))
    if seeds == 1:
        return Variance(0.0, of_examples, 0.0, seeds, n_examples)
    rest = resampled - resampled.mean(axis=0)
    rest = rest - rest.mean(axis=1, keepdims=True)
    both = float((rest**2).sum()) / ((seeds - 1) * max(1, resamples - 1)) / seeds
    return Variance(_variance(by_seed) / seeds, of_examples, both, seeds, n_examples)


def _variance(values: Floats) -> float:
    return float(values.var(ddof=1)) if values.size > 1 else 0.0


def percentile_interval(means: Floats, confidence: float) -> tuple[float, float]:
    """Return the percentile interval of bootstrap means, as ``scipy.stats.bootstrap`` does."""
    tail = (1 - confidence) / 2
    low, high = np.percentile(means, [100 * tail, 100 * (1 - tail)])
    return float(low), float(high)


def interval(
    means: Floats, estimate: float, found: Variance, confidence: float
) -> tuple[float, float]:
    """Return the percentile interval of two-level means, with its known bias corrected.

    With one seed it is the percentile interval. With few, percentiles are too narrow by
    sqrt((n - 1) / n) and lack Student's factor (at 3 seeds they cover 73 % where seeds vary most),
    and what an example does at one seed alone is counted three times. So both sides are stretched
    by one factor, that which makes the means' standard deviation, times the normal quantile,
    Student's half width.
    """
    from scipy.stats import norm

    low, high = percentile_interval(means, confidence)
    spread = float(means.std()) * norm.ppf((1 + confidence) / 2)
    if found.n_seeds == 1 or spread == 0:
        return low, high
    factor = found.half_width(confidence) / spread
    return float(estimate - factor * (estimate - low)), float(estimate + factor * (high - estimate))
