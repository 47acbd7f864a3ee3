"""The table of a comparison for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ftplug.comparing.report import texts
from ftplug.comparing.report.answer import answer, direction, metric_name
from ftplug.comparing.report.facts import Row, rows
from ftplug.comparing.report.texts import WORDS, clean
from ftplug.comparing.results import Result
from ftplug.comparing.summary import Summary

if TYPE_CHECKING:
    import rich.table

_STYLES = {
    "better": "bold green",
    "worse": "red",
    "equivalent": "blue",
    "failed": "red",
    "baseline": "bold",
}
_NAME = 48  # characters of a candidate: two lines or three


def terminal_table(summary: Summary, results: Sequence[Result]) -> rich.table.Table:
    """Return the conclusions as a table of at most 80 columns, the answer below it.

    Verdicts are words, so that nothing is lost without colour; texts of scripts are shown as text,
    whatever markup or escapes they hold.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption=Text(answer(summary)),
        caption_justify="left",
        caption_style="",
    )
    table.add_column("Candidate", overflow="fold", min_width=12)
    table.add_column("Verdict", no_wrap=True)
    for heading in (clean(metric_name(summary), 10), "Difference, 95 %", "p", "Rate", "Time"):
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for row in rows(summary, results):
        table.add_row(*(Text(text, style=style) for text, style in _cells(row)))
    return table


def notes(summary: Summary) -> list[str]:
    """Return what else is to be known: of the comparison, then of each candidate."""
    said = [clean(note) for note in summary.notes]
    if summary.metric is not None:
        said.insert(0, clean(direction(summary)))
    for one in summary.candidates:
        if one.reason and one.verdict in ("failed", "not_decided"):
            said.append(f"{clean(one.candidate, _NAME)}: {WORDS[one.verdict]}: {clean(one.reason)}")
        said += [f"{clean(one.candidate, _NAME)}: {clean(note)}" for note in one.notes]
    return [f"note: {note}" for note in said]


def _cells(row: Row) -> list[tuple[str, str]]:
    judged = row.judged
    difference = texts.signed(judged.difference)
    if judged.interval:
        difference += f"\n{', '.join(map(texts.signed, judged.interval))}"
    return [
        (clean(judged.candidate, _NAME), ""),
        (WORDS[judged.verdict], _STYLES.get(judged.verdict, "")),
        (texts.number(judged.mean), ""),
        (difference, ""),
        (texts.p_value(judged.p), ""),
        (texts.rate_of(judged), ""),
        (texts.seconds(row.seconds), ""),
    ]
