"""Cells of the search for a rate end early, as optuna's successive halving says."""

import json
import sys

import fake_cells
import pytest

from ftplug.comparing.results import Cell, to_line
from ftplug.comparing.scheduling import pruning
from ftplug.comparing.scheduling.pruning import Pruning
from ftplug.errors import FtplugError

pytest.importorskip("optuna")
CELL = Cell("lora", 1e-4, 0)


def curve(cell, *values, greater=True, **facts):
    sign = 1 if greater else -1
    epochs = [
        {"epoch": float(number), "metrics": {"accuracy": sign * value}}
        for number, value in enumerate(values, start=1)
    ]
    return fake_cells.result(cell, epochs=epochs, greater_is_better=greater, **facts)


def asked(tmp_path, others, values, cell=CELL):
    """Return how many epochs a cell runs beside others that have ended."""
    lines = "".join(f"{to_line(other)}\n" for other in others)
    (tmp_path / "results.jsonl").write_text(lines)
    of_cell = Pruning(tmp_path, cell)
    for epoch, value in enumerate(values, start=1):
        if not of_cell.goes_on(float(epoch), value):
            return epoch
    return len(values)


BEST = curve(Cell("lora", 1e-3, 0), 0.7, 0.8, 0.9)


@pytest.mark.parametrize(
    ("others", "values", "epochs"),
    [
        ([], [0.1, 0.1, 0.1], 3),
        ([BEST], [0.6, 0.9, 0.9], 1),
        ([BEST], [0.7, 0.75, 0.9], 2),
        ([BEST], [0.8, 0.85, 0.8], 3),
        ([BEST, curve(Cell("lora", 1e-2, 0), 0.75, status="pruned")], [0.72, 0.9, 0.9], 1),
        ([curve(Cell("lora", 1e-3, 0), -0.7, -0.5, greater=False)], [-0.8, -0.4], 1),
        ([curve(Cell("lora", 1e-3, 0), -0.7, -0.5, -0.3, greater=False)], [-0.6, -0.6, -0.2], 2),
    ],
)
def test_what_is_behind_at_a_whole_epoch_ends(tmp_path, others, values, epochs):
    assert asked(tmp_path, others, values) == epochs


@pytest.mark.parametrize(
    "other",
    [
        curve(Cell("bitfit", 1e-3, 0), 0.9, 0.9),
        curve(Cell("lora", 1e-3, 1), 0.9, 0.9),
        curve(Cell("lora", 1e-3, 0), 0.9, 0.9, status="diverged"),
    ],
)
def test_only_other_rates_of_the_same_candidate_and_seed_count(tmp_path, other):
    assert asked(tmp_path, [other], [0.1, 0.1]) == 2


def test_no_cell_ends_within_its_first_epoch(tmp_path):
    (tmp_path / "results.jsonl").write_text(f"{to_line(BEST)}\n")
    of_cell = Pruning(tmp_path, CELL)
    assert of_cell.goes_on(0.25, 0.0)
    assert of_cell.goes_on(0.75, 0.0)
    assert not of_cell.goes_on(1.0, 0.0)


def test_a_value_that_is_none_is_left_to_the_cell(tmp_path):
    assert asked(tmp_path, [BEST], [float("nan"), 0.9]) == 2


def test_the_study_is_the_same_however_often_it_is_rebuilt(tmp_path):
    """A torn line at its end is a cell that has not ended."""
    others = [BEST, curve(Cell("lora", 1e-2, 0), 0.71, 0.79, status="pruned")]
    studies = [pruning.rebuilt([pruning.curve(one) for one in others]) for _ in range(2)]
    attributes = [[trial.system_attrs for trial in study.get_trials()] for study in studies]
    assert attributes[0] == attributes[1]
    assert attributes[0][0]["completed_rung_0"] == 0.7
    with open(tmp_path / "results.jsonl", "a") as file:
        file.write(f"{to_line(BEST)}\n{json.dumps({'candidate': 'lora'})[:9]}")
    assert not Pruning(tmp_path, CELL).goes_on(1.0, 0.6)


def test_a_budget_without_optuna_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(FtplugError, match=r"pip install 'ftplug\[compare\]'"):
        pruning.check_installed()


def test_a_cell_that_is_done_is_not_called_pruned_at_its_last_epoch(tmp_path):
    two = curve(Cell("lora", 1e-3, 0), 0.7, 0.9)
    (tmp_path / "results.jsonl").write_text(f"{to_line(two)}\n")
    of_cell = Pruning(tmp_path, CELL)
    assert of_cell.goes_on(1.0, 0.8)
    assert of_cell.goes_on(2.0, 0.1)
