"""Writing a report into the folder of a comparison: a page and its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ftplug.comparing.comparison import Comparison
from ftplug.comparing.report import figures, tradeoffs
from ftplug.comparing.report.answer import metric_name
from ftplug.comparing.report.facts import rows, uses_gpu
from ftplug.comparing.report.page import page
from ftplug.comparing.results import Result
from ftplug.comparing.summary import Summary
from ftplug.files.pictures import own_style, png_of
from ftplug.files.staged import replace_file
from ftplug.files.write_errors import stated_write_errors

PAGE = "report.html"
PICTURES = ("difference.png", "epochs.png", "tradeoff.png")


def write_report(
    directory: Path, comparison: Comparison, results: Sequence[Result], summary: Summary
) -> Path:
    """Write ``report.html`` and the pictures that there is something to draw for.

    Each file appears complete or not at all, and the same comparison gives the same bytes; a
    picture of an earlier report that has nothing to show now goes. Returns the page's path. Raises
    :class:`ArtifactError` where the folder cannot be written.
    """
    text = page(directory, comparison, results, summary)
    drawn = dict(_pictures(results, summary))
    with stated_write_errors(directory):
        for name in PICTURES:
            if name in drawn:
                replace_file(directory / name, drawn[name])
            else:
                (directory / name).unlink(missing_ok=True)
        replace_file(directory / PAGE, text.encode("utf-8"))
    return directory / PAGE


def _pictures(results: Sequence[Result], summary: Summary) -> Iterator[tuple[str, bytes]]:
    found = rows(summary, results)
    costs = tradeoffs.costs(uses_gpu(results))
    with own_style():
        made = (
            figures.difference(summary.candidates, summary.baseline, summary.delta),
            figures.epochs(found, metric_name(summary)),
            tradeoffs.tradeoffs(found, costs, summary),
        )
        for name, figure in zip(PICTURES, made, strict=True):
            if figure is not None:
                yield name, png_of(figure)
