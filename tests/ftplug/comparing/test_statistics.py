"""Identities with scipy, symmetries, and what few seeds may not claim."""

import dataclasses

import numpy as np
import pytest
import scipy.stats

from ftplug.comparing import statistics, verdicts

NAMES = {"better": "worse", "worse": "better"}


def outcomes(seed=0, seeds=3, examples=80, shift=0.1):
    """Differences of right and wrong answers: -1, 0 and 1."""
    rng = np.random.default_rng(seed)
    drawn = rng.random((seeds, examples))
    return (drawn < 0.1 + shift).astype(float) - (drawn > 0.9)


def losses(seed=0, seeds=3, examples=80, shift=0.1):
    return np.random.default_rng(seed).normal(shift, 1, (seeds, examples))


def scipy_p(mean, resamples=9_999, seed=0):
    found = scipy.stats.permutation_test(
        (mean,), np.mean, permutation_type="samples", vectorized=True,
        n_resamples=resamples, rng=np.random.default_rng(seed),
    )  # fmt: skip
    return found.pvalue


def test_p_is_scipys():
    differences = losses()
    assert statistics.p_value(differences, seed=3) == scipy_p(differences.mean(0), seed=3)


@pytest.mark.parametrize("shift", [-0.1, 0.0, 0.15])
def test_p_is_scipys_exactly_with_ties_where_all_signs_are_tried(shift):
    differences = outcomes(seed=1, seeds=2, examples=12, shift=shift)
    assert statistics.p_value(differences) == scipy_p(differences.mean(0))


def test_leaving_out_zeros_does_not_move_p():
    mean = outcomes(examples=200).mean(0)
    assert (mean == 0).any()
    assert statistics.p_value(mean[None]) == pytest.approx(scipy_p(mean), abs=0.015)


@pytest.mark.parametrize("differences", [np.zeros((3, 5)), np.eye(1, 5), np.full((2, 9), 1e-17)])
def test_p_is_1_without_two_differences(differences):
    assert statistics.p_value(differences) == 1


def test_holm_by_hand_and_monotone():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []
    assert statistics.holm([0.7]) == [0.7]
    p = np.random.default_rng(0).random(20) ** 3
    adjusted = np.array(statistics.holm(p))
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(1, 20 * p)).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


@pytest.mark.parametrize("level", ["seeds", "examples"])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_with_one_level_fixed_it_is_scipys_bootstrap(level, confidence):
    differences = losses(seeds=7)
    values = differences.mean(axis=1 if level == "seeds" else 0)
    rng = np.random.default_rng(5)
    means = statistics.bootstrap_means(
        differences, rng, seeds=level == "seeds", examples=level == "examples"
    )
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=9_999, method="percentile",
        confidence_level=confidence, rng=np.random.default_rng(5),
    )  # fmt: skip
    np.testing.assert_allclose(means, expected.bootstrap_distribution, rtol=0, atol=1e-12)
    found = statistics.percentile_interval(means, confidence)
    np.testing.assert_allclose(found, tuple(expected.confidence_interval), rtol=0, atol=1e-12)


def test_with_one_seed_the_interval_is_scipys_bootstrap():
    differences = outcomes(seeds=1)
    found = verdicts.of_outcomes(differences, seed=5)
    expected = scipy.stats.bootstrap(
        (differences[0],), np.mean, method="percentile", rng=np.random.default_rng(5)
    )
    np.testing.assert_allclose(found.interval, tuple(expected.confidence_interval), atol=1e-12)


def test_all_drawn_seeds_have_the_same_examples():
    """Seeds that differ by a constant alone: means differ by it whatever examples are drawn."""
    row = losses(seeds=1)
    means = statistics.bootstrap_means(np.vstack([row, row]), np.random.default_rng(1))
    drawn = statistics.draw_seeds(2, 9_999, rng := np.random.default_rng(1))
    alone = statistics.bootstrap_means(row, rng, seeds=False)
    np.testing.assert_allclose(means, alone, atol=1e-12)
    shifted = statistics.bootstrap_means(np.vstack([row, row + 1]), np.random.default_rng(1))
    np.testing.assert_allclose(shifted - means, drawn.mean(axis=1), atol=1e-12)


def test_what_is_drawn_at_once_changes_nothing(monkeypatch):
    whole = statistics.bootstrap_means(losses(), np.random.default_rng(0), resamples=500)
    monkeypatch.setattr(statistics, "_AT_ONCE", 300)
    parts = statistics.bootstrap_means(losses(), np.random.default_rng(0), resamples=500)
    np.testing.assert_array_equal(whole, parts)


def test_many_examples_are_affordable():
    assert statistics.affordable(9_999, 600, 10**8) == 9_999
    assert statistics.affordable(9_999, 20_000, 10**8) == 5_000
    assert statistics.affordable(9_999, 10**9, 10**8) == 999
    assert statistics.affordable(499, 10**9, 10**8) == 499


def crossed(seeds=4, examples=30, of_seeds=1.0, of_examples=1.0, of_both=1.0, draws=2_000):
    """Differences of crossed random effects, (draws, seeds, examples)."""
    rng = np.random.default_rng(0)
    return (
        of_seeds * rng.normal(size=(draws, seeds, 1))
        + of_examples * rng.normal(size=(draws, 1, examples))
        + of_both * rng.normal(size=(draws, seeds, examples))
    )


@pytest.mark.parametrize("effects", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 2, 3)])
def test_variances_are_those_of_new_seeds_and_examples(effects):
    differences = crossed(of_seeds=effects[0], of_examples=effects[1], of_both=effects[2])
    found = [statistics.variance(one) for one in differences]
    unbiased = np.mean([one.seeds + one.examples - one.both for one in found])
    assert unbiased == pytest.approx(differences.mean((1, 2)).var(), rel=0.12)
    assert np.mean([one.both for one in found]) == pytest.approx(effects[2] ** 2 / 120, rel=0.05)


def test_the_forecast_for_other_seeds_is_what_they_show():
    few, many = crossed(seeds=4), crossed(seeds=12)
    forecast = [statistics.variance(one).at(12) for one in few]
    shown = [statistics.variance(one) for one in many]
    for name in ("seeds", "examples", "both"):
        expected = np.mean([getattr(one, name) for one in shown])
        assert np.mean([getattr(one, name) for one in forecast]) == pytest.approx(expected, rel=0.1)
    same = statistics.variance(few[0])
    assert dataclasses.astuple(same.at(4)) == pytest.approx(dataclasses.astuple(same))


def test_where_only_seeds_vary_the_interval_has_students_width():
    values = np.array([[0.01], [0.02], [0.06]])
    differences = np.repeat(values, 40, axis=1)
    found = verdicts.of_outcomes(differences)
    half = scipy.stats.sem(values[:, 0]) * scipy.stats.t.ppf(0.975, 2)
    assert found.variance.half_width(0.95) == pytest.approx(half)
    width = found.interval[1] - found.interval[0]
    assert width == pytest.approx(2 * half, rel=0.2)
    assert found.percentiles == pytest.approx((0.01, 0.06))
    assert found.interval[0] < found.percentiles[0] < found.percentiles[1] < found.interval[1]


@pytest.mark.parametrize("make", [outcomes, losses])
@pytest.mark.parametrize("shift", [-0.35, 0.0, 0.05, 0.4])
def test_swapping_candidate_and_baseline_flips_it_all(make, shift):
    one = verdicts.of_outcomes(make(shift=shift))
    other = verdicts.of_outcomes(-make(shift=shift))
    assert other.difference == -one.difference
    assert other.p == pytest.approx(one.p, abs=0.02)
    for name in ("interval", "interval_90", "percentiles"):
        low, high = getattr(one, name)
        assert getattr(other, name) == pytest.approx((-high, -low))
    verdict = verdicts.verdict(one, one.p, 0.1)
    assert verdicts.verdict(other, other.p, 0.1) == NAMES.get(verdict, verdict)


def test_each_verdict_is_reached():
    found = {
        shift: verdicts.of_outcomes(losses(seed=2, examples=200, shift=shift))
        for shift in (-1, 0, 0.05, 1)
    }
    names = [verdicts.verdict(one, one.p, delta=0.15) for one in found.values()]
    assert names == ["worse", "equivalent", "equivalent", "better"]
    assert verdicts.verdict(found[0.05], found[0.05].p, delta=0.01) == "not_decided"


def test_the_order_of_examples_and_seeds_does_not_decide():
    differences = outcomes(examples=300)
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(rng.permutation(differences, axis=0), axis=1)
    one, other = verdicts.of_outcomes(differences), verdicts.of_outcomes(shuffled)
    assert dataclasses.astuple(other.variance) == pytest.approx(dataclasses.astuple(one.variance))
    assert other.interval == pytest.approx(one.interval, abs=0.003)
    assert other.p == pytest.approx(one.p, abs=0.01)


def test_a_candidate_equal_to_the_baseline_is_equivalent():
    found = verdicts.of_outcomes(np.zeros((3, 50)))
    assert (found.difference, found.interval, found.p) == (0, (0, 0), 1)
    assert verdicts.verdict(found, found.p, 0.01) == "equivalent"


def test_a_difference_without_any_variance_is_one():
    found = verdicts.of_outcomes(np.ones((2, 50)))
    assert found.interval == (1, 1)
    assert verdicts.verdict(found, found.p, 0.01) == "better"


@pytest.mark.parametrize("shift", [-5, 0, 5])
def test_one_seed_decides_nothing(shift):
    found = verdicts.of_outcomes(losses(seeds=1, shift=shift) * (shift != 0))
    assert verdicts.verdict(found, found.p, 0.1) == "not_decided"
    assert verdicts.more_seeds(found, found.p, 0.1) is None


def test_an_adjusted_p_may_undo_a_verdict():
    found = verdicts.of_outcomes(losses(shift=1))
    assert verdicts.verdict(found, 0.049, 0.01) == "better"
    assert verdicts.verdict(found, 0.05, 0.01) == "not_decided"


@pytest.mark.parametrize("interval", [(-0.03, 0.005), (-0.005, 0.03), (-0.03, 0.03)])
def test_equivalent_needs_both_bounds(interval):
    found = verdicts.of_outcomes(losses())
    found = dataclasses.replace(found, interval=(-0.04, 0.04), interval_90=interval)
    assert verdicts.verdict(found, 0.9, 0.01) == "not_decided"
    assert verdicts.verdict(found, 0.9, 0.03) == "equivalent"


def test_three_seeds_that_agree_by_luck_are_not_enough():
    """The bootstrap alone says better wherever all seeds have the same sign: one time in eight."""
    differences = np.repeat([[0.01], [0.03], [0.08]], 500, axis=1)
    differences = differences + np.random.default_rng(0).normal(0, 0.05, (1, 500))
    found = verdicts.of_outcomes(differences)
    assert found.percentiles[0] > 0
    assert found.p < 0.001
    assert verdicts.verdict(found, found.p, 0.01) == "not_decided"
    assert verdicts.more_seeds(found, found.p, 0.01) in range(1, 9)


def test_more_seeds_are_fewer_for_a_larger_difference():
    noise = np.repeat(np.random.default_rng(3).normal(0, 1, (3, 1)), 400, axis=1)
    counts = []
    for shift in (0.6, 0.9, 1.2):
        found = verdicts.of_outcomes(noise - noise.mean() + shift)
        assert verdicts.verdict(found, found.p, 0.01) == "not_decided"
        counts.append(verdicts.more_seeds(found, found.p, 0.01))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_no_seed_helps_where_examples_alone_vary():
    row = np.random.default_rng(0).normal(0, 1, 100)
    differences = np.repeat((row - row.mean() + 0.1)[None], 3, axis=0)
    found = verdicts.of_outcomes(differences)
    assert verdicts.more_seeds(found, found.p, 0.01) is None
    assert verdicts.more_seeds(found, found.p, 1.0) == 1  # it is equivalent already


def resampled(differences, count=2_000):
    """The means of the same resamples of examples for all seeds: what a cell keeps of F1."""
    rng = np.random.default_rng(9)
    picked = rng.integers(0, differences.shape[1], (count, differences.shape[1]))
    return differences[:, picked].mean(axis=2)


@pytest.mark.parametrize("make", [outcomes, losses])
@pytest.mark.parametrize("shift", [0.0, 0.1, 0.4])
def test_a_mean_known_by_resamples_alone_is_judged_as_by_examples(make, shift):
    differences = make(examples=200, shift=shift)
    known = verdicts.of_outcomes(differences)
    found = verdicts.of_resamples(resampled(differences), differences.mean(1), 200)
    width = known.interval[1] - known.interval[0]
    assert found.difference == pytest.approx(known.difference)
    assert found.interval == pytest.approx(known.interval, abs=0.08 * width)
    assert found.p == pytest.approx(known.p, abs=0.03)
    expected = dataclasses.astuple(known.variance)[:3]
    assert dataclasses.astuple(found.variance)[:3] == pytest.approx(expected, rel=0.12)


def test_resamples_of_one_seed_decide_nothing():
    differences = losses(seeds=1, shift=5)
    found = verdicts.of_resamples(resampled(differences), differences.mean(1), 80)
    assert found.p == 1 / 2_001
    assert verdicts.verdict(found, found.p, 0.01) == "not_decided"


def test_the_same_outcomes_give_the_same_contrast():
    assert verdicts.of_outcomes(losses()) == verdicts.of_outcomes(losses())
