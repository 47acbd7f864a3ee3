"""Ends cells of the search for a rate early: optuna's successive halving, by the metric by epoch.

A study is rebuilt from what has ended each time it is asked, so that nothing of it is lost when a
comparison is killed, and processes need not talk to each other.
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.comparing.results import FILE, Cell, Result, read_results
from ftplug.errors import FtplugError

if TYPE_CHECKING:
    import optuna

Curve = Sequence[tuple[float, float]]


def check_installed() -> None:
    """Refuse a budget where optuna is missing."""
    if not is_installed():
        raise FtplugError(
            "--budget-minutes needs optuna, which ends cells early: pip install 'ftplug[compare]'"
        )


def is_installed() -> bool:
    """Whether there is something to prune with."""
    return importlib.util.find_spec("optuna") is not None


class Pruning:
    """Asked after each evaluation of a cell whether it goes on.

    It is held against the cells of its candidate that have ended with the same seed at other rates,
    at whole epochs alone: the first is never cut short.
    """

    def __init__(self, directory: Path, cell: Cell) -> None:
        self.directory, self.cell = directory, cell
        self.seen: list[tuple[float, float]] = []

    def goes_on(self, epoch: float, value: float) -> bool:
        """Whether a cell goes on that has reached ``value`` (more is better) after ``epoch``."""
        self.seen.append((epoch, value))
        ended = read_results(self.directory / FILE)
        beside = [one for one in ended if is_beside(one, self.cell)]
        whole = [curve(one) for one in beside if one.status == "finished"]
        if any(epoch >= known[-1][0] for known in whole if known):
            return True  # it has run as long as the script runs: there is nothing to save
        return not is_behind(rebuilt([curve(one) for one in beside]), self.seen)


def is_beside(result: Result, cell: Cell) -> bool:
    """Whether a result is of the same candidate and seed, and had values to compare with."""
    same = (result.candidate, result.seed) == (cell.candidate, cell.seed)
    return same and result.lr != cell.lr and result.status in ("finished", "pruned")


def curve(result: Result) -> Curve:
    """Return ``(epoch, value)`` of a cell that has ended, more being better."""
    sign = 1.0 if result.greater_is_better else -1.0
    named = [(entry["epoch"], entry["metrics"].get(result.metric)) for entry in result.epochs]
    return [(epoch, sign * value) for epoch, value in named if value is not None]


def rebuilt(curves: Sequence[Curve]) -> optuna.Study:
    """Return the study of cells that have ended, from ``(epoch, value)`` of each."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for curve in curves:
        trial = study.ask()
        _report(trial, curve)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return study


def is_behind(study: optuna.Study, curve: Curve) -> bool:
    """Whether a cell that got this far ends now."""
    return _report(study.ask(), curve)


def _report(trial: Any, curve: Curve) -> bool:
    """Tell a trial its values at whole epochs; return whether the last of them is its end.

    Each is asked for: that is when successive halving notes what a trial had reached.
    """
    behind = False
    for step, value in _by_whole_epochs(curve).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial.report(value, step)
            behind = trial.should_prune()
    return behind


def _by_whole_epochs(curve: Curve) -> dict[int, float]:
    """Return the first value at or after the end of each epoch."""
    found: dict[int, float] = {}
    for epoch, value in curve:
        if (step := math.floor(epoch + 1e-6)) >= 1 and math.isfinite(value):
            found.setdefault(step, value)
    return found
