"""The figures of docs/costs.md are what was measured, and with which versions; ratios are right."""

import dataclasses
import json
from pathlib import Path

import bench
import pairs
import pytest
import report
from report import Figure, Found, Goal, Ratio, Series

RENEW = "stale: make bench"


def test_the_page_holds_the_tables():
    assert bench.section(bench.PAGE.read_text(encoding="utf-8")) == bench.render(bench.read())


def test_every_benchmark_was_run_and_the_page_says_with_what():
    results, page = bench.read(), bench.PAGE.read_text(encoding="utf-8")
    assert list(results) == list(bench.NAMES), RENEW
    for name in bench.NAMES:
        assert Path(bench.HERE, f"{name}.py").is_file()
        for package in ("peft", "transformers"):
            assert f"{package} {results[name]['on'][package]}" in bench.section(page), RENEW


def test_each_benchmark_that_measures_is_run():
    commands = [path.stem for path in bench.HERE.glob("*.py") if "report.main(" in path.read_text()]
    assert sorted(commands) == sorted(bench.NAMES + bench.BY_ITSELF)


def test_what_is_kept_reads_back():
    found = Found()
    found.ratio("a", "b", pairs.compare([2.0, 4.0], [1.0, 2.0]), "s", Goal("≥", 2))
    found.figure("c", 3.0, "MiB")
    found.grows(["layers", "ms"], [[2, 1.5]])
    kept = json.loads(json.dumps(dataclasses.asdict(found)))
    assert Found.read(kept) == found


@pytest.mark.parametrize(
    ("goal", "value", "low", "high", "met"),
    [
        (Goal("≤", 1.3), 1.3, 1.2, 1.4, True),
        (Goal("≤", 1.3), 1.31, 1.2, 1.4, False),
        (Goal("≥", 3), 3.0, 2.9, 3.1, True),
        (Goal("≥", 3), 2.99, 2.9, 3.1, False),
        (Goal("includes", 1.0), 1.02, 0.99, 1.05, True),
        (Goal("includes", 1.0), 1.02, 1.01, 1.05, False),
        (Goal("includes", 1.0), 0.97, 0.95, 0.99, False),
    ],
)
def test_a_goal_that_is_missed_says_so(goal, value, low, high, met):
    assert goal.met(value, low, high) == met
    paired = pairs.Paired(value, 1.0, value, low, high)
    assert (report.MISSED in Ratio("a", "b", paired, "s", goal).cells()[-1]) == (not met)


def test_a_figure_is_compared_with_its_goal():
    assert Figure("a", 51, "ms", Goal("≤", 50)).cells() == ("a", "51 ms", "≤ 50 **missed**")
    assert Figure("a", 0.25, "s", Goal("≤", 1)).cells() == ("a", "0.25 s", "≤ 1")
    assert Figure("a", 7e-8, "", None).cells() == ("a", "7e-08", "")


def test_series_are_shown_whole():
    found = Found(series=[Series(("layers", "ms"), [[2, 1.5], [24, 1234.5]])])
    kept = dataclasses.asdict(Found()) | {"on": {}}
    results = dict.fromkeys(bench.NAMES, kept)
    results[bench.NAMES[-1]] = dataclasses.asdict(found) | {"on": {}}
    assert "| layers | ms |\n| --- | --- |\n| 2 | 1.5 |\n| 24 | 1,234 |\n" in bench.render(results)


def test_pairs_are_compared_and_not_means():
    a, b = [1.0, 20.0, 300.0], [2.0, 40.0, 600.0]  # the machine slows down meanwhile
    assert pairs.compare(a, b) == pairs.Paired(20.0, 40.0, 0.5, 0.5, 0.5)


def test_the_interval_of_noise_holds_the_truth():
    low, high = pairs.interval([0.9, 1.1, 1.0, 0.95, 1.05, 1.02, 0.98])[1:]
    assert 0.9 <= low < 1.0 < high <= 1.1


def test_two_things_are_measured_in_turn():
    seen = []
    pairs.interleave(lambda: seen.append("a"), lambda: seen.append("b"), 2, warm_up=1)
    assert "".join(seen) == "ababab"
