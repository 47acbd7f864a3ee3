"""The winner's artifact says what it was compared with: its card shows the table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftplug.artifacts.saving import annotate
from ftplug.comparing.comparison import Comparison
from ftplug.comparing.report import figures
from ftplug.comparing.report.published import FACT, Published
from ftplug.comparing.results import Result
from ftplug.comparing.summary import Summary
from ftplug.files.pictures import own_style, png_of


def add_to_artifact(
    best: Path,
    directory: Path,
    comparison: Comparison,
    results: Sequence[Result],
    summary: Summary,
) -> None:
    """Put a comparison's table and verdicts into the manifest and the card of its best artifact.

    ``best`` is ``DIR/best``, ``directory`` is DIR. Weights and their hashes stay as they are. Safe
    to call again: what an earlier call said is replaced. Raises :class:`ArtifactError` where there
    is no artifact, or none that can be written.
    """
    annotate(best, training={FACT: Published.of(comparison, results, summary).fact()})


def picture(published: Published) -> bytes | None:
    """Return the PNG of the differences, or None where none was measured."""
    judged = [line.judged for line in published.candidates]
    with own_style():
        figure = figures.difference(judged, published.baseline, published.delta)
        return None if figure is None else png_of(figure)
