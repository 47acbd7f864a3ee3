"""The demo's script: what ``ftplug compare`` runs where it is given none."""

import sys

import numpy
import pytest
from cells import ran
from transformers import EvalPrediction

from ftplug.comparing.outcomes import read_outcomes
from ftplug.demo import script


def test_it_keeps_the_epoch_with_the_highest_share_of_right_answers(tmp_path):
    arguments = script._arguments(str(tmp_path), 3.0)
    assert arguments.load_best_model_at_end
    assert arguments.greater_is_better
    answers = numpy.array([[0.0, 1.0], [1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    found = script._accuracy(EvalPrediction(answers, numpy.array([1, 0, 0, 0])))
    assert found == {arguments.metric_for_best_model: 0.75}


@pytest.mark.real
@pytest.mark.slow
def test_it_is_a_cell_like_any_other(tmp_path, monkeypatch):
    # A cell has a process of its own; in this one the module must not be there before `python -m`.
    monkeypatch.delitem(sys.modules, script.__name__)
    result = ran(
        tmp_path,
        "",
        "freeze layers=0",
        lr=1e-3,
        command=("ftplug.demo.script", "--epochs", "1", "--limit", "48"),
        module=True,
    )
    assert (result.status, result.metric, result.set) == ("finished", "accuracy", "test")
    assert result.notes == ["args.output_dir is a folder of the cell's own"]
    assert [epoch["epoch"] for epoch in result.epochs] == [1.0]
    found = read_outcomes(tmp_path / "DIR" / result.outcomes)
    assert len(found.outcomes) == 48
    assert found.outcomes.mean() == pytest.approx(result.value, abs=1e-6)
    assert result.value == result.metrics["accuracy"]
