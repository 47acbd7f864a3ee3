"""Which rate wins, and whether it lies at the edge of what was tried."""

import pytest

from ftplug.comparing.choosing import Edge, at_edge, chosen_rates
from ftplug.comparing.comparison import Comparison
from ftplug.comparing.results import Result

LOW, MIDDLE, HIGH = RATES = (1e-4, 3e-4, 1e-3)


def comparison(*candidates, **settings):
    names = candidates or ("lora",)
    return Comparison(("train.py",), False, ".", names, names[0], "0" * 64, **settings)


def cell(lr, value, seed=0, status="finished", candidate="lora", greater=True):
    return Result(
        candidate, lr, seed, status, metric="eval_x", chosen_by=value, greater_is_better=greater
    )


def chosen(*cells):
    return chosen_rates(comparison(), cells)["lora"]


def test_the_best_rate_wins():
    assert chosen(cell(LOW, 0.7), cell(MIDDLE, 0.9), cell(HIGH, 0.8)) == MIDDLE


def test_the_lowest_loss_wins():
    cells = [
        cell(lr, value, greater=False) for lr, value in zip(RATES, (2.0, 1.5, 0.5), strict=True)
    ]
    assert chosen(*cells) == HIGH


def test_what_is_measured_on_a_test_set_does_not_choose():
    low, high = cell(LOW, 0.7), cell(HIGH, 0.8)
    low.set = high.set = "test"
    low.metrics, high.metrics = {"eval_x": 1.0}, {"eval_x": 0.0}
    assert chosen(low, high) == HIGH


def test_seeds_that_all_rates_share_count():
    """What survives has more seeds, which must not undo how it was chosen."""
    first = [cell(LOW, 0.8), cell(MIDDLE, 0.9), cell(HIGH, 0.7)]
    assert chosen(*first, cell(MIDDLE, 0.1, 1), cell(MIDDLE, 0.1, 2)) == MIDDLE
    assert chosen(*first, cell(MIDDLE, None, 1, "failed")) == MIDDLE
    more = [cell(lr, value, 1) for lr, value in zip(RATES, (0.9, 0.1, 0.1), strict=True)]
    assert chosen(*first, *more) == LOW


def test_without_a_shared_seed_the_first_one_counts():
    assert chosen(cell(LOW, 0.9, 1), cell(HIGH, 0.5, 0)) == HIGH


@pytest.mark.parametrize("status", ["failed", "diverged", "pruned", "out_of_memory"])
def test_what_did_not_finish_is_never_chosen_over_what_did(status):
    assert chosen(cell(LOW, 0.9, status=status), cell(HIGH, 0.5)) == HIGH
    half = [cell(LOW, 0.9), cell(LOW, 0.9, 1, status), cell(HIGH, 0.5), cell(HIGH, 0.5, 1)]
    assert chosen(*half) == HIGH


def test_of_pruned_rates_the_best_is_named():
    assert chosen(cell(LOW, 0.5, status="pruned"), cell(HIGH, 0.9, status="pruned")) == HIGH


@pytest.mark.parametrize("value", [0.8, None, float("nan")])
def test_of_equal_rates_the_middle_one(value):
    cells = [cell(HIGH, value), cell(LOW, value), cell(MIDDLE, value)]
    assert chosen(*cells) == MIDDLE
    assert chosen(*cells[:2]) == LOW


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_rate_without_a_metric_is_not_chosen(missing):
    assert chosen(cell(LOW, missing), cell(HIGH, -5.0)) == HIGH


def test_the_order_of_results_does_not_decide():
    cells = [cell(lr, 0.5 + seed * lr, seed) for lr in RATES for seed in range(3)]
    assert chosen(*cells) == chosen(*cells[::-1]) == HIGH


def test_each_candidate_has_its_own():
    found = chosen_rates(
        comparison("lora", "bitfit", "full", "freeze"),
        [
            cell(LOW, 0.9), cell(HIGH, 0.1),
            cell(LOW, 0.1, candidate="bitfit"), cell(HIGH, 0.9, candidate="bitfit"),
            cell(None, 0.5, candidate="full"), cell(LOW, 0.5, candidate="somebody else's"),
        ],
    )  # fmt: skip
    assert found == {"lora": LOW, "bitfit": HIGH, "full": None}


def test_a_rate_between_others_is_not_at_the_edge():
    assert at_edge([cell(lr, 0.5) for lr in RATES], "lora", MIDDLE) is None


def test_the_next_rate_is_further_by_the_same_factor():
    cells = [cell(lr, 0.5) for lr in RATES]
    assert at_edge(cells, "lora", LOW) == Edge("lowest", LOW, 3.33e-5)
    far = [cell(lr, 0.5) for lr in (1e-7, 1e-2, 1e9)]
    assert at_edge(far, "lora", 1e-7).next_rate == 1e-8  # at most ten times further
    assert at_edge(far, "lora", 1e9).next_rate == 1e10
    assert at_edge(cells, "lora", HIGH) == Edge("highest", HIGH, 3.33e-3)
    even = [cell(lr, 0.5) for lr in (1e-5, 1e-4, 1e-3)]
    assert at_edge(even, "lora", 1e-5).next_rate == 1e-6
    assert at_edge(even, "lora", 1e-3).next_rate == 1e-2


def test_extended_by_one_step_it_lies_inside():
    cells = [cell(lr, 0.5) for lr in RATES]
    edge = at_edge(cells, "lora", HIGH)
    assert at_edge([*cells, cell(edge.next_rate, 0.4)], "lora", HIGH) is None


def test_a_neighbour_that_diverged_is_one():
    cells = [cell(LOW, 0.5), cell(MIDDLE, 0.6), cell(HIGH, None, status="diverged")]
    assert at_edge(cells, "lora", MIDDLE) is None


@pytest.mark.parametrize("rate", [LOW, None])
def test_one_rate_has_no_edge(rate):
    others = [cell(lr, 0.5, candidate="bitfit") for lr in RATES]
    assert at_edge([cell(rate, 0.5), cell(rate, 0.6, 1), *others], "lora", rate) is None
