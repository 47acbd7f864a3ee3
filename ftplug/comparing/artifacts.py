"""Which cells' artifacts stay: few, because each may be as large as the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftplug.comparing.folder import ARTIFACT, Folder, copy_of_artifact, drop
from ftplug.comparing.results import Cell, Result
from ftplug.comparing.scheduling.planning import Plan
from ftplug.comparing.summary import Summary

BEST = "best"  # the winner's, in the comparison's folder


def kept(plan: Plan, results: Sequence[Result]) -> set[Cell]:
    """Return the cells whose artifacts stay: of each candidate the first seed's, at the best rate.

    While a candidate has cells to run, at each rate.
    """
    finished = [result for result in results if result.status == "finished"]
    first: dict[tuple[str, float | None], Cell] = {}
    for result in sorted(finished, key=lambda result: result.seed):
        first.setdefault((result.candidate, result.lr), result.cell)
    busy = {cell.candidate for cell in plan.todo(results)}
    best = plan.choose(plan.comparison, results) if finished else {}
    return {
        cell
        for (candidate, rate), cell in first.items()
        if candidate in busy or best.get(candidate, rate) == rate
    }


def drop_artifacts(folder: Folder, plan: Plan) -> None:
    """Remove the artifacts that do not stay."""
    stay = kept(plan, folder.results)
    for result in folder.results:
        if result.cell not in stay:
            drop(folder.cell(result.cell), [ARTIFACT])


def copy_best(folder: Folder, summary: Summary) -> Path | None:
    """Give ``DIR/best`` the winner's artifact; None where it has none."""
    won = next((one for one in summary.candidates if one.candidate == summary.best), None)
    if won is None:
        return None
    cells = [
        result.cell
        for result in sorted(folder.results, key=lambda result: result.seed)
        if (result.candidate, result.lr) == (won.candidate, won.lr)
    ]
    there = [place for cell in cells if (place := folder.cell(cell) / ARTIFACT).is_dir()]
    if not there:
        return None
    copy_of_artifact(there[0], folder.path / BEST)
    return folder.path / BEST
