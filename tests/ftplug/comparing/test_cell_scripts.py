"""Other people's scripts as cells: TRL's, one that generates, one that searches."""

import contextlib
import shutil

import folders
import numpy as np
import pytest
import script_cells
from cells import comparison, place
from script_cells import HERE, SCRIPTS

from ftplug.comparing.cell import run_cell
from ftplug.comparing.outcomes import read_outcomes
from ftplug.comparing.results import Cell

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # what others' code warns about is not ours
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = folders.script_inputs(tmp_path_factory.mktemp("inputs"))
    shutil.copy(root / "texts" / "train.jsonl", root / "texts" / "test.jsonl")
    return root


def ran(root, name, candidate="lora r=4", more=(), **asked):
    """Run one of the scripts as a cell; return its result and its outcomes."""
    script = SCRIPTS[name]
    command = (*script.command(root, root / "unused"), *more)
    told = comparison(HERE, command=command, module=script.module, **asked)
    cell = Cell(candidate, 1e-2, 1)
    with script_cells._datasets_below(root), contextlib.chdir(HERE):
        result = run_cell(told, cell, place(root, cell), go_on=lambda *_: True)
    found = result.outcomes and read_outcomes(root / "DIR" / result.outcomes)
    assert not [path for path in (root / "unused").rglob("*") if path.is_file()]
    return result, found


def test_trl_sft(root):
    more = ("--eval_strategy", "epoch", "--per_device_eval_batch_size", "4")
    result, found = ran(root, "trl-sft", more=more)
    assert (result.status, result.reason) == ("finished", None)
    assert (result.metric, result.greater_is_better, result.set) == ("loss", False, "evaluation")
    assert result.no_outcomes is None
    assert found.outcomes.mean() == pytest.approx(result.value, abs=1e-6)
    assert result.forgetting > 0
    assert result.tokens_per_second > 0
    other, again = ran(root, "trl-sft", "freeze layers=1", more=more)
    assert other.status == "finished"
    assert np.array_equal(found.keys, again.keys)


def test_trl_sft_without_evaluation_says_what_is_missing(root):
    result, _ = ran(root, "trl-sft")
    assert result.status == "failed"
    assert result.reason == "the script evaluates nothing: give its Trainer an eval_dataset"


def test_trl_dpo_has_no_outcome_by_example(root):
    shutil.copy(root / "pairs" / "train.jsonl", root / "pairs" / "test.jsonl")
    result, _ = ran(root, "trl-dpo", more=("--eval_strategy", "epoch"))
    assert (result.status, result.metric) == ("finished", "loss")
    assert result.no_outcomes.startswith("not decided: no per-example outcome: ")


def test_one_that_generates(root):
    result, found = ran(root, "translate", metric="exact_match")
    assert (result.status, result.reason, result.metric) == ("finished", None, "exact_match")
    assert found.outcomes.mean() == pytest.approx(result.value, abs=1e-6)


def test_one_that_searches(root):
    result, found = ran(root, "search")
    assert (result.status, result.reason) == ("finished", None)
    assert any("times: the last counts" in note for note in result.notes)
    assert found is not None


def test_one_that_keeps_the_best(root):
    result, found = ran(root, "classify")
    assert (result.status, result.metric, result.set) == ("finished", "accuracy", "evaluation")
    assert found.outcomes.mean() == pytest.approx(result.value, abs=1e-6)
    assert result.chosen_by == result.value
