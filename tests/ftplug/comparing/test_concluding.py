"""From results and outcomes in a folder to verdicts."""

import dataclasses
import json

import numpy as np
import pytest

from ftplug.comparing import concluding
from ftplug.comparing.comparison import Comparison
from ftplug.comparing.concluding import conclude
from ftplug.comparing.outcomes import FILE, Outcomes, write_outcomes
from ftplug.comparing.results import CELLS, Result
from ftplug.comparing.summary import Summary
from ftplug.errors import FtplugError

EXAMPLES = 200


def comparison(*candidates, **settings):
    return Comparison(
        ("train.py",), False, ".", candidates, candidates[0], "0" * 64, **settings
    )  # fmt: skip


def examples(count=EXAMPLES, seed=7):
    keys = np.random.default_rng(seed).integers(0, 256, (count, 16), dtype=np.uint8)
    return keys[np.lexsort(keys.T[::-1])]


class Folder:
    """A comparison's folder, and the results of cells that were put there."""

    def __init__(self, path):
        self.path, self.results = path, []

    def cell(self, candidate, seed=0, lr=1e-3, status="finished", **fields):
        """A cell as it ended; without outcomes."""
        defaults = {"metric": "eval_accuracy", "set": "evaluation"} if status == "finished" else {}
        self.results.append(Result(candidate, lr, seed, status, **(defaults | fields)))
        return self.results[-1]

    def kept(
        self, candidate, accuracy, seed=0, *, keys=None, values=None, resamples=None, **fields
    ):
        """A finished cell with outcomes: the first examples right, their mean is the metric."""
        if values is None:
            values = (np.arange(EXAMPLES) < accuracy * EXAMPLES).astype(float)
        result = self.cell(candidate, seed, **fields)
        metric = float(np.mean(values))
        result.metrics, result.chosen_by = {result.metric: metric}, result.chosen_by or metric
        result.outcomes = f"{CELLS}/{result.cell.id}/{FILE}"
        found = Outcomes("accuracy", examples() if keys is None else keys, values)
        if resamples is not None:
            found = dataclasses.replace(found, outcomes=None, resamples=resamples)
        (self.path / result.outcomes).parent.mkdir(parents=True, exist_ok=True)
        write_outcomes(self.path / result.outcomes, found)
        return result

    def conclude(self, *candidates, **settings):
        return conclude(comparison(*candidates, **settings), self.results, self.path)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def by_name(summary):
    return {one.candidate: one for one in summary.candidates}


def three(folder, candidate, accuracy, **fields):
    return [
        folder.kept(candidate, accuracy + 0.005 * seed, seed, **fields) for seed in range(3)
    ]  # fmt: skip


def test_better_worse_equivalent_and_the_baseline(folder):
    for candidate, accuracy in (("full", 0.8), ("lora", 0.95), ("ia3", 0.6), ("copy", 0.8)):
        three(folder, candidate, accuracy)
    summary = folder.conclude("full", "lora", "ia3", "copy")
    verdicts = [(one.candidate, one.verdict) for one in summary.candidates]
    assert verdicts == [
        ("full", "baseline"), ("lora", "better"), ("ia3", "worse"), ("copy", "equivalent"),
    ]  # fmt: skip
    full, lora, ia3, copy = summary.candidates
    assert (full.difference, full.p, full.interval, full.reason) == (None, None, None, None)
    assert lora.difference == pytest.approx(0.15)
    assert ia3.difference == pytest.approx(-0.2)
    assert (copy.difference, copy.p) == (0, 1)
    assert lora.mean == pytest.approx(0.955)
    assert lora.seeds == [0, 1, 2]
    assert (summary.metric, summary.set, summary.baseline) == (
        "eval_accuracy",
        "evaluation",
        "full",
    )
    assert summary.best == "lora"
    assert summary.complete


def test_swapping_candidate_and_baseline_flips_it(folder):
    three(folder, "full", 0.8)
    three(folder, "lora", 0.95)
    one = by_name(folder.conclude("full", "lora"))["lora"]
    other = by_name(folder.conclude("lora", "full"))["full"]
    assert (one.verdict, other.verdict) == ("better", "worse")
    assert other.difference == pytest.approx(-one.difference)
    assert other.interval == pytest.approx((-one.interval[1], -one.interval[0]))


def test_where_less_is_better_it_is_turned(folder):
    loss = {"metric": "eval_loss", "greater_is_better": False}
    rng = np.random.default_rng(0)
    for seed in range(3):
        values = rng.normal(2, 0.1, EXAMPLES)
        folder.kept("full", 0, seed, values=values, **loss)
        folder.kept("lora", 0, seed, values=values - 0.5, **loss)
    summary = folder.conclude("full", "lora")
    lora = by_name(summary)["lora"]
    assert (lora.verdict, summary.greater_is_better, summary.best) == ("better", False, "lora")
    assert lora.difference == pytest.approx(0.5)
    assert lora.mean == pytest.approx(1.5, abs=0.02)


def test_differences_beyond_what_can_be_averaged_are_no_interval(folder):
    """A perplexity may be 1e200: NaN would stand in summary.json, which is no JSON."""
    ppl = {"metric": "perplexity", "greater_is_better": False}
    values = np.linspace(1, 2, EXAMPLES)
    for seed in range(2):
        folder.kept("full", 0, seed, values=values, **ppl)
        folder.kept("lora", 0, seed, values=values * 1e200, **ppl)
    lora = by_name(folder.conclude("full", "lora"))["lora"]
    assert (lora.verdict, lora.interval, lora.p) == ("not_decided", None, None)
    assert lora.reason == "its differences are too large to be averaged"


def test_seeds_are_paired(folder):
    """Seeds move both alike: unpaired, nothing would be decided."""
    for seed, accuracy in enumerate((0.3, 0.5, 0.7)):
        folder.kept("full", accuracy, seed)
        folder.kept("lora", accuracy + 0.1, seed)
    folder.kept("lora", 0.0, 3)  # no baseline at this seed
    lora = by_name(folder.conclude("full", "lora"))["lora"]
    assert lora.verdict == "better"
    assert lora.difference == pytest.approx(0.1)


def test_one_seed_decides_nothing_and_says_so(folder):
    folder.kept("full", 0.1)
    folder.kept("lora", 0.9)
    summary = folder.conclude("full", "lora", seeds=1)
    lora = by_name(summary)["lora"]
    assert (lora.verdict, lora.reason, lora.more_seeds) == (
        "not_decided", concluding.ONE_SEED, None,
    )  # fmt: skip
    assert lora.p < 0.001
    assert concluding.ONE_SEED in summary.notes


def test_not_decided_says_how_many_more_seeds(folder):
    for seed, gain in enumerate((0.02, 0.06, 0.16)):
        folder.kept("full", 0.5, seed)
        folder.kept("lora", 0.5 + gain, seed)
    lora = by_name(folder.conclude("full", "lora"))["lora"]
    assert lora.verdict == "not_decided"
    assert 1 <= lora.more_seeds < 20
    assert lora.reason == f"about {lora.more_seeds} more seeds would decide it"


def test_p_is_corrected_over_candidates(folder):
    for seed in range(3):
        for name, accuracy in (("full", 0.5), ("lora", 0.535), ("a", 0.53), ("b", 0.53)):
            folder.kept(name, accuracy, seed)
    alone = by_name(folder.conclude("full", "lora"))["lora"]
    among = by_name(folder.conclude("full", "lora", "a", "b"))
    assert alone.p == pytest.approx(2 / 2**7)  # it answers seven more examples rightly
    assert among["lora"].p == pytest.approx(3 * alone.p)
    assert among["a"].p == among["b"].p == pytest.approx(2 * 2 / 2**6)
    assert (alone.verdict, among["lora"].verdict) == ("better", "better")
    assert among["a"].verdict == "not_decided"


def test_without_outcomes_it_is_not_decided(folder):
    three(folder, "full", 0.8)
    three(folder, "lora", 0.9)
    for seed in range(3):
        folder.cell("ia3", seed, metrics={"eval_accuracy": 0.99}, no_outcomes="f1 of batches")
    ia3 = by_name(folder.conclude("full", "lora", "ia3"))["ia3"]
    assert (ia3.verdict, ia3.reason) == ("not_decided", "no per-example outcome: f1 of batches")
    assert ia3.mean == pytest.approx(0.99)
    assert (ia3.difference, ia3.p) == (None, None)


@pytest.mark.parametrize("damage", ["gone", "torn", "nan"])
def test_outcomes_that_do_not_read_are_missing(folder, damage):
    three(folder, "full", 0.8)
    for result in three(folder, "lora", 0.9):
        path = folder.path / result.outcomes
        if damage == "gone":
            path.unlink()
        elif damage == "torn":
            path.write_bytes(path.read_bytes()[:100])
        else:
            nan = np.full(EXAMPLES, np.nan)
            write_outcomes(path, Outcomes("accuracy", examples(), nan))
    lora = by_name(folder.conclude("full", "lora"))["lora"]
    assert lora.verdict == "not_decided"
    assert lora.reason.startswith("no per-example outcome: ")


def test_the_reason_of_a_cell_without_outcomes_is_said_once(folder):
    three(folder, "full", 0.8)
    for seed in range(3):
        why = "not decided: no per-example outcome: it samples"
        folder.cell("lora", seed, metrics={"eval_accuracy": 0.9}, no_outcomes=why)
    lora = by_name(folder.conclude("full", "lora"))["lora"]
    assert (lora.verdict, lora.reason) == ("not_decided", "no per-example outcome: it samples")


def test_a_seed_that_failed_is_named_beside_the_mean_of_the_others(folder):
    three(folder, "full", 0.8)
    for seed in (0, 2):
        folder.kept("lora", 0.95, seed)
    folder.cell("lora", 1, status="failed", reason="ValueError: no luck")
    lora = by_name(folder.conclude("full", "lora"))["lora"]
    assert (lora.seeds, lora.paired_seeds) == ([0, 2], 2)
    assert "its mean is without seed 1: failed: ValueError: no luck" in lora.notes
    full = by_name(folder.conclude("lora", "full"))["full"]
    assert (full.seeds, full.paired_seeds) == ([0, 1, 2], 2)
    assert "differences are of the 2 seeds that the baseline has too" in full.notes


def test_different_examples_are_refused_by_name(folder):
    three(folder, "full", 0.8)
    own = three(folder, "lora", 0.9)
    keys = examples()
    keys[3] = 0
    own[1] = folder.kept("lora", 0.9, 1, keys=keys)
    folder.results = [one for one in folder.results if one is own[1] or one.cell != own[1].cell]
    with pytest.raises(FtplugError) as refused:
        folder.conclude("full", "lora")
    text = str(refused.value)
    assert f"cells/{own[1].cell.id} (lora, lr 0.001, seed 1)" in text
    assert "\n" not in text
    assert own[0].cell.id not in text


def test_the_order_of_examples_does_not_decide(folder, tmp_path):
    rng = np.random.default_rng(0)
    order = rng.permutation(EXAMPLES)
    other = Folder(tmp_path / "other")
    for seed in range(3):
        base = (rng.random(EXAMPLES) < 0.7).astype(float)
        better = np.maximum(base, rng.random(EXAMPLES) < 0.3)
        for name, values in (("full", base), ("lora", better)):
            folder.kept(name, 0, seed, values=values)
            other.kept(name, 0, seed, values=values[order], keys=examples()[order])
    one = by_name(folder.conclude("full", "lora"))["lora"]
    two = by_name(other.conclude("full", "lora"))["lora"]
    assert (one.verdict, one.difference) == (two.verdict, pytest.approx(two.difference))
    assert one.interval == pytest.approx(two.interval, abs=0.005)


def test_a_metric_of_resamples_is_judged(folder):
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.01, 1000)
    for seed in range(3):
        folder.kept("full", 0.5, seed, resamples=0.5 + noise)
        folder.kept("lora", 0.7, seed, resamples=0.7 + noise + rng.normal(0, 0.01, 1000))
    lora = by_name(folder.conclude("full", "lora"))["lora"]
    assert (lora.verdict, lora.p) == ("better", 1 / 1001)
    assert lora.difference == pytest.approx(0.2)


def test_outcomes_of_two_kinds_are_not_compared(folder):
    three(folder, "full", 0.5)
    three(folder, "lora", 0.9, resamples=np.full(1000, 0.9))
    lora = by_name(folder.conclude("full", "lora"))["lora"]
    assert (lora.verdict, lora.reason) == (
        "not_decided", "no per-example outcome: cells kept outcomes of different kinds",
    )  # fmt: skip


def test_metrics_of_two_names_are_not_compared(folder):
    three(folder, "full", 0.5)
    three(folder, "lora", 0.9, metric="eval_f1")
    lora = by_name(folder.conclude("full", "lora"))["lora"]
    assert lora.verdict == "not_decided"
    assert "eval_accuracy and eval_f1" in lora.reason


def test_a_baseline_that_failed_leaves_all_undecided(folder):
    folder.cell("full", status="out_of_memory", reason="12 GB were asked for")
    three(folder, "lora", 0.9)
    full, lora = folder.conclude("full", "lora").candidates
    assert (full.verdict, full.reason) == ("failed", "out of memory: 12 GB were asked for")
    assert (lora.verdict, lora.reason) == (
        "not_decided", "the baseline: out of memory: 12 GB were asked for",
    )  # fmt: skip


def test_candidates_of_which_nothing_finished(folder):
    three(folder, "full", 0.8)
    folder.cell("lora", 0, status="diverged", reason="loss is NaN at step 3")
    folder.cell("lora", 1, status="failed", reason="ValueError: no")
    folder.cell("ia3", 0, status="pruned", reason="0.2 behind at epoch 1")
    summary = folder.conclude("full", "lora", "ia3", "not yet")
    _, lora, ia3, missing = summary.candidates
    assert (lora.verdict, lora.reason) == ("failed", "diverged: loss is NaN at step 3")
    assert (ia3.verdict, ia3.reason) == ("not_decided", "pruned: 0.2 behind at epoch 1")
    assert (missing.verdict, missing.reason) == ("not_decided", "none of its cells has ended")
    assert not summary.complete


def test_no_seed_in_common(folder):
    folder.kept("full", 0.8, 0)
    folder.kept("lora", 0.8, 1)
    lora = by_name(folder.conclude("full", "lora"))["lora"]
    assert lora.reason == "no seed at which both it and the baseline finished"


def test_nothing_ended(folder):
    summary = folder.conclude("full", "lora")
    assert [one.verdict for one in summary.candidates] == ["baseline", "not_decided"]
    assert (summary.best, summary.metric, summary.complete) == (None, None, False)


def test_a_seed_that_is_missing_leaves_it_incomplete(folder):
    three(folder, "full", 0.8)
    cells = three(folder, "lora", 0.8)
    assert folder.conclude("full", "lora").complete
    folder.results.remove(cells[2])
    assert not folder.conclude("full", "lora").complete
    folder.cell("lora", 2, status="pruned")
    assert folder.conclude("full", "lora").complete


def test_a_listed_rate_that_is_missing_leaves_it_incomplete(folder):
    three(folder, "full", 0.8)
    assert not folder.conclude("full", rates=(1e-3, 1e-2)).complete
    folder.kept("full", 0.7, lr=1e-2)
    assert not folder.conclude("full", rates=(1e-3, 1e-2)).complete
    assert folder.conclude("full", rates=(1e-3, 1e-2), budget_minutes=5).complete
    assert folder.conclude("full").complete


def test_rates_are_chosen_on_the_evaluation_set_and_the_best_too(folder):
    """The test set has the other order: it must not choose."""
    for seed in range(3):
        folder.kept("full", 0.9, seed, set="test", chosen_by=0.5)
        folder.kept("lora", 0.5, seed, set="test", chosen_by=0.8)
        folder.kept("lora", 0.9, seed, lr=1e-2, set="test", chosen_by=0.7)
    summary = folder.conclude("full", "lora")
    lora = by_name(summary)["lora"]
    assert (lora.lr, lora.mean, lora.verdict) == (1e-3, pytest.approx(0.5), "worse")
    assert summary.best == "lora"
    assert (summary.set, summary.notes) == ("test", [])


def test_chosen_and_measured_on_one_set_says_so(folder):
    three(folder, "full", 0.8)
    assert folder.conclude("full").notes == []
    folder.kept("full", 0.7, lr=1e-2)
    assert folder.conclude("full").notes == [concluding.SAME_SET]


def test_a_rate_at_the_edge_is_flagged(folder):
    three(folder, "full", 0.8)
    folder.kept("full", 0.7, lr=1e-4)
    notes = folder.conclude("full").candidates[0].notes
    assert notes == ["its rate 0.001 is the highest that was tried: 0.01 was not tried"]


def test_seeds_that_begin_alike_are_named(folder):
    for seed in range(3):
        folder.kept("full", 0.8, seed, fresh="same")
        folder.kept("lora", 0.8, seed, fresh=f"of {seed}")
        folder.kept("ia3", 0.8, seed)
    notes = [one.notes for one in folder.conclude("full", "lora", "ia3").candidates]
    assert notes == [[concluding.SAME_START], [], []]


def test_the_front_is_of_what_nothing_beats(folder):
    costs = {"train_seconds": 10.0, "peak_rss": 100, "artifact_bytes": 100}
    three(folder, "full", 0.9, **costs)
    three(folder, "beaten", 0.8, **costs)
    three(folder, "quick", 0.7, **(costs | {"train_seconds": 5.0}))
    three(folder, "small", 0.7, **(costs | {"artifact_bytes": 1}))
    three(folder, "lean", 0.7, **(costs | {"peak_rss": 1}))
    names = ("full", "beaten", "quick", "small", "lean")
    found = {one.candidate: one.pareto for one in folder.conclude(*names).candidates}
    assert found == dict.fromkeys(names, True) | {"beaten": False}


def test_what_one_candidate_lacks_is_not_compared(folder):
    three(folder, "full", 0.9)
    three(folder, "quick", 0.7, train_seconds=5.0)
    assert [one.pareto for one in folder.conclude("full", "quick").candidates] == [True, False]


def test_where_all_have_a_gpu_its_memory_counts_alone(folder):
    three(folder, "full", 0.9, peak_gpu=100, peak_rss=100)
    three(folder, "lean", 0.7, peak_gpu=100, peak_rss=1)
    assert [one.pareto for one in folder.conclude("full", "lean").candidates] == [True, False]


def test_the_best_has_as_many_seeds_as_any(folder):
    three(folder, "full", 0.8)
    folder.kept("lora", 0.99)
    assert folder.conclude("full", "lora").best == "full"


def test_the_summary_is_written_as_json(folder):
    three(folder, "full", 0.8)
    three(folder, "lora", 0.9)
    summary = folder.conclude("full", "lora")
    assert isinstance(summary, Summary)
    summary.write(folder.path)
    found = json.loads((folder.path / "summary.json").read_text())
    assert {"candidate", "lr", "verdict", "difference", "interval", "p"} <= set(
        found["candidates"][1]
    )
    assert folder.conclude("full", "lora") == summary


def test_where_a_trunk_cache_would_help_is_noted(folder):
    folder.kept("full", 0.8)
    folder.kept("freeze", 0.8, could_cache=True)
    notes = [one.notes for one in folder.conclude("full", "freeze").candidates]
    assert notes == [[], [concluding.COULD_CACHE]]
