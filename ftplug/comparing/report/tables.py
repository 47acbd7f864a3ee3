"""The tables of a page, cell by cell, as texts that are safe to show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ftplug.comparing.comparison import Comparison
from ftplug.comparing.report import texts
from ftplug.comparing.report.answer import open_because
from ftplug.comparing.report.colors import VERDICTS
from ftplug.comparing.report.facts import Row
from ftplug.comparing.report.texts import NAME, WORDS, Places, clean
from ftplug.comparing.results import CELLS, Result
from ftplug.comparing.summary import Summary

Line = dict[str, Any]


def verdicts(rows: Sequence[Row], places: Places) -> list[Line]:
    """Return the conclusions, a line a candidate."""
    return [
        _named(row)
        | {
            "verdict": WORDS[row.judged.verdict],
            "color": VERDICTS[row.judged.verdict],
            "mean": texts.number(row.judged.mean),
            "difference": texts.signed(row.judged.difference),
            "interval": texts.interval(row.judged.interval),
            "p": texts.p_value(row.judged.p),
            "rate": texts.rate_of(row.judged),
            "seeds": len(row.judged.seeds) or texts.UNKNOWN,
            "said": list(_said(row, places)),
        }
        for row in rows
    ]


def _said(row: Row, places: Places) -> Iterator[str]:
    yield from map(places.shortened, open_because(row.judged))
    yield from (places.clean(note) for note in row.judged.notes)


def costs(rows: Sequence[Row]) -> list[Line]:
    """Return what candidates cost."""
    return [
        _named(row)
        | {
            "seconds": texts.seconds(row.seconds),
            "memory": texts.size(row.memory),
            "parameters": texts.count(row.parameters),
            "artifact": texts.size(row.artifact),
            "forgetting": texts.number(row.forgetting),
        }
        for row in rows
    ]


def differences(rows: Sequence[Row]) -> list[Line]:
    """Return what the picture of differences shows."""
    return [
        _named(row)
        | {
            "difference": texts.signed(row.judged.difference),
            "low": texts.signed(row.judged.interval[0] if row.judged.interval else None),
            "high": texts.signed(row.judged.interval[1] if row.judged.interval else None),
        }
        for row in rows
        if row.judged.difference is not None
    ]


def curves(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the metric by epoch: the epochs, and a line a candidate."""
    epochs = sorted({epoch for row in rows for epoch, _ in row.curve})
    epochs = epochs[:: max(1, -(-len(epochs) // 12))]  # a dozen columns at most
    lines = [
        _named(row) | {"values": [texts.number(dict(row.curve).get(epoch)) for epoch in epochs]}
        for row in rows
        if row.curve
    ]
    return {"epochs": [f"{epoch:g}" for epoch in epochs], "lines": lines}


def tradeoffs(rows: Sequence[Row]) -> list[Line]:
    """Return quality beside what it costs, and which candidates are on the front of all."""
    return [
        _named(row)
        | {
            "mean": texts.number(row.judged.mean),
            "seconds": texts.seconds(row.seconds),
            "memory": texts.size(row.memory),
            "artifact": texts.size(row.artifact),
            "front": "yes" if row.judged.pareto else "no",
        }
        for row in rows
        if row.judged.mean is not None
    ]


def _named(row: Row) -> Line:
    return {"letter": row.letter, "name": row.name}


def troubled(results: Sequence[Result], directory: Path, places: Places) -> list[Line]:
    """Return the cells that neither finished nor were pruned."""
    ended = [result for result in results if result.status not in ("finished", "pruned")]
    return [_cell(result, directory, places) for result in ended]


def cells(
    comparison: Comparison, results: Sequence[Result], directory: Path, places: Places
) -> list[Line]:
    """Return all cells, in the order of candidates, rates and seeds."""
    order = {candidate: at for at, candidate in enumerate(comparison.candidates)}
    by = sorted(results, key=lambda r: (order.get(r.candidate, len(order)), r.lr or 0.0, r.seed))
    return [_cell(result, directory, places) for result in by]


def _cell(result: Result, directory: Path, places: Places) -> Line:
    log = f"{CELLS}/{result.cell.id}/log.txt"
    return {
        "name": clean(result.candidate, NAME),
        "rate": texts.rate(result.lr),
        "seed": result.seed,
        "status": WORDS[result.status],
        "color": "ink" if result.status in ("finished", "pruned") else "worse",
        "value": texts.number(result.value),
        "seconds": texts.seconds(result.train_seconds),
        "reason": places.clean(result.reason or ""),
        "log": log if (directory / log).is_file() else "",
    }


def counts(results: Sequence[Result]) -> str:
    """Return how many cells ended how: ``40 finished, 2 failed``."""
    found = Counter(WORDS[result.status] for result in results)
    return ", ".join(f"{count} {word}" for word, count in found.most_common()) or "none has ended"


def notes(summary: Summary, results: Sequence[Result], places: Places) -> list[str]:
    """Return the notes of a comparison, then those of its cells, each once."""
    said = [*summary.notes, *(note for result in results for note in result.notes)]
    reasons = [r.no_outcomes for r in results if r.no_outcomes and r.status == "finished"]
    return list(dict.fromkeys(places.clean(note) for note in [*said, *reasons]))
