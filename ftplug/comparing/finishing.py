"""What a comparison ends with: its summary, its report and the winner's artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftplug.comparing.artifacts import copy_best
from ftplug.comparing.folder import Folder
from ftplug.comparing.results import Cell
from ftplug.comparing.summary import Summary


@dataclass(frozen=True)
class Finished:
    """The conclusions, and where the report and the winner's artifact lie."""

    summary: Summary
    report: Path
    best: Path | None


def finish(folder: Folder, left_out: Sequence[Cell], *, interrupted: bool = False) -> Finished:
    """Conclude from what has ended, and write summary.json, the report and ``best/``.

    ``left_out`` are cells that were needed and have not run: their candidates' rows say so.
    """
    from ftplug.comparing.concluding import conclude
    from ftplug.comparing.report import write_report
    from ftplug.comparing.report.card import add_to_artifact

    summary = conclude(folder.comparison, folder.results, folder.path)
    note_left_out(summary, left_out, None if interrupted else folder.comparison.budget_minutes)
    summary.write(folder.path)
    best = copy_best(folder, summary)
    if best is not None:
        add_to_artifact(best, folder.path, folder.comparison, folder.results, summary)
    report = write_report(folder.path, folder.comparison, folder.results, summary)
    return Finished(summary, report, best)


def note_left_out(summary: Summary, left_out: Sequence[Cell], minutes: float | None) -> None:
    """Say in the rows of candidates which of their cells have not run.

    ``minutes`` is the budget that did not suffice; None where the comparison was interrupted.
    """
    if minutes is None:
        why = of_rates = of_seeds = "the comparison was interrupted; the same command goes on"
    else:
        why = f"the budget of {minutes:g} minutes"
        of_rates = f"rates take half of {why}"
        of_seeds = f"{why} went to candidates that were nearer to the best"
    if left_out:
        summary.complete = False
        summary.notes.append(f"{len(left_out)} cells have not run: {why}")
    for row in summary.candidates:
        cells = [cell for cell in left_out if cell.candidate == row.candidate]
        seeds = sorted({cell.seed for cell in cells} - {0})
        rates = sorted({cell.lr or 0.0 for cell in cells if cell.seed == 0})
        if seeds:
            row.notes.append(f"not run: seeds {', '.join(map(str, seeds))}: {of_seeds}")
        if rates:
            shown = ", ".join(f"{rate:g}" if rate else "the script's" for rate in rates)
            row.notes.append(f"not run: learning rates {shown}: {of_rates}")
