"""The section of a card that says what a model was compared with, of ``ftplug compare``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ftplug_registry.card.markdown import code, plain, table

if TYPE_CHECKING:
    from ftplug.comparing.report.published import Line, Published

FACT = "comparison"


def compared(training: Mapping[str, Any]) -> Published | None:
    """Return the comparison that a manifest's training facts hold, if they hold one."""
    if FACT not in training:
        return None
    from ftplug.comparing.report.published import Published

    return Published.read(training[FACT])


def verdicts(published: Published) -> str:
    """Return the table of candidates."""
    forgets = any(line.forgetting is not None for line in published.candidates)
    header = ["Candidate", "Verdict", plain(published.metric) or "Mean", "Difference"]
    header += ["95 % interval", "p", "Rate", "Seeds", "Training", "Artifact"]
    lines = (list(_cells(line, forgets=forgets)) for line in published.candidates)
    return table([*header, *(["Forgetting"] if forgets else [])], lines)


def _cells(line: Line, *, forgets: bool) -> Iterator[str]:
    from ftplug.comparing.report import texts

    yield code(line.candidate)
    yield texts.WORDS[line.verdict]
    yield from (texts.number(line.mean), texts.signed(line.difference))
    yield from (texts.interval(line.interval), texts.p_value(line.p).replace("<", "&lt;"))
    yield from (texts.rate(line.lr), str(line.seeds or texts.UNKNOWN))
    yield from (texts.seconds(line.seconds), texts.size(line.artifact))
    if forgets:
        yield texts.number(line.forgetting)


def remarks(published: Published) -> list[str]:
    """Return how the verdicts were found, and the notes of the comparison."""
    how = (
        f"Verdicts are of `ftplug compare` against {code(published.baseline)}: better or worse "
        "where the adjusted p is below 0.05 and the 95 % interval lies wholly on one side of 0, "
        f"equivalent where the 90 % interval lies within ±{published.delta:g}."
    )
    aside = "" if published.greater_is_better else " Differences are turned: more is better."
    return [f"{how}{aside} {plain(published.measured_on)}".strip(), *map(plain, published.notes)]


def drawn(published: Published) -> bytes | None:
    """Return the picture of the differences, or None where there is nothing to draw."""
    return _drawn(json.dumps(published.fact(), sort_keys=True))


@lru_cache(maxsize=4)
def _drawn(content: str) -> bytes | None:
    """Draw a comparison: pushing draws again what saving drew."""
    from ftplug.comparing.report.card import picture
    from ftplug.comparing.report.published import Published

    published = Published.read(json.loads(content))
    return picture(published) if published else None
