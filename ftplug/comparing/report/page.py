"""The page ``report.html``: one file that asks for nothing else, for every screen."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftplug.comparing.comparison import Comparison
from ftplug.comparing.report import colors, figures, tables, tradeoffs
from ftplug.comparing.report.again import command_again, folder_shown
from ftplug.comparing.report.answer import answer, meanings, measured_on, metric_name
from ftplug.comparing.report.facts import Row, rows, uses_gpu
from ftplug.comparing.report.svg import svg_of
from ftplug.comparing.report.texts import NAME, Places, clean
from ftplug.comparing.results import Result
from ftplug.comparing.summary import Summary
from ftplug.files.pictures import own_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HERE = Path(__file__).parent
TEMPLATE, STYLE = _HERE / "report.html.jinja", _HERE / "report.css"
_LIBRARIES = ("ftplug", "torch", "transformers", "peft")


def page(
    directory: Path, comparison: Comparison, results: Sequence[Result], summary: Summary
) -> str:
    """Return the page; the same comparison gives the same text."""
    import markupsafe

    places = Places.of(directory, comparison.folder)
    found = rows(summary, results)
    style = colors.variables() + STYLE.read_text(encoding="utf-8")
    with own_style():
        drawn = _figures(found, summary, tradeoffs.costs(uses_gpu(results)))
    text: str = _template().render(
        style=markupsafe.Markup(style),
        policy=policy(style),
        answer=answer(summary),
        measured_on=measured_on(summary),
        complete=summary.complete,
        metric=metric_name(summary),
        baseline=clean(summary.baseline, NAME),
        higher=summary.greater_is_better,
        verdicts=tables.verdicts(found, places),
        costs=tables.costs(found),
        memory="Peak GPU memory" if uses_gpu(results) else "Peak memory (RSS)",
        forgets=any(row.forgetting is not None for row in found),
        figures={name: markupsafe.Markup(svg) for name, svg in drawn.items()},
        differences=tables.differences(found),
        curves=tables.curves(found),
        tradeoffs=tables.tradeoffs(found),
        troubled=tables.troubled(results, directory, places),
        cells=tables.cells(comparison, results, directory, places),
        counts=tables.counts(results),
        notes=tables.notes(summary, results, places),
        meanings=meanings(summary.delta),
        command=command_again(comparison, directory),
        folder=folder_shown(comparison, directory),
        versions=_versions(results),
    )
    return text.lstrip()


def policy(style: str) -> str:
    """Return the Content-Security-Policy of a page that has this style, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    only = f"style-src 'sha256-{digest}'; img-src data:"
    return f"default-src 'none'; {only}; base-uri 'none'; form-action 'none'"


@cache
def _template() -> Any:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _figures(
    found: Sequence[Row], summary: Summary, costs: Sequence[tradeoffs.Cost]
) -> dict[str, str]:
    """Return the SVGs by name; those that there is nothing to draw for are empty."""
    metric, against = metric_name(summary), clean(summary.baseline, NAME)
    made: dict[str, tuple[Figure | None, str, str]] = {
        "difference": (
            figures.difference(summary.candidates, summary.baseline, summary.delta),
            f"Difference of {metric} to {against}",
            "A line for each candidate: the 95 % interval of its difference, with a mark at the "
            "mean. Right of zero is better. The table beside it has the same numbers.",
        ),
        "epochs": (
            figures.epochs(found, metric),
            f"{metric} by epoch",
            "A line for each candidate, the mean over seeds on the evaluation set. The table "
            "beside it has the same numbers.",
        ),
    }
    for cost in costs:
        made[cost.key] = (
            tradeoffs.tradeoff(found, cost, summary),
            f"{metric} against {cost.title}",
            "A point for each candidate. Filled points, joined by a line, are those that no other "
            "beats in both. The table below has the same numbers.",
        )
    return {
        name: "" if figure is None else svg_of(figure, name, title, said)
        for name, (figure, title, said) in made.items()
    }


def _versions(results: Sequence[Result]) -> Mapping[str, str]:
    """Return versions by name: Python's, of the libraries here, of what the methods came from."""
    found = {"Python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in _LIBRARIES}
    for result in results:
        for method in result.methods:
            if (name := method.get("distribution")) and (version := method.get("version")):
                found[clean(name, 60)] = clean(version, 30)
    return found
