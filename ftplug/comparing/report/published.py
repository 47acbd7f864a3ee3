"""What of a comparison is published with its winner: the table, the verdicts, the notes.

It stands in the manifest as ``training.comparison``, of which the card makes its table and its
picture. No log, no answer to an example, no path and no reason that a script gave is in it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, MaxLen

from ftplug.comparing.comparison import Comparison
from ftplug.comparing.report.answer import answer, measured_on
from ftplug.comparing.report.facts import Row, rows
from ftplug.comparing.report.texts import NAME, Places, clean
from ftplug.comparing.results import Result
from ftplug.comparing.summary import Judged, Summary, Verdict

FACT = "comparison"  # its name in the manifest's ``training``
_MOST = 200  # candidates; the manifest of a stranger may claim any number

Number = Annotated[float, Ge(-1e15), Le(1e15)]  # no NaN either
Text = Annotated[str, MaxLen(2000)]


@dataclass(frozen=True)
class Line:
    """A candidate of a published comparison; times in seconds, sizes in bytes."""

    candidate: Text
    verdict: Verdict
    lr: Number | None = None
    mean: Number | None = None
    difference: Number | None = None
    interval: tuple[Number, Number] | None = None
    p: Number | None = None
    seeds: Annotated[int, Ge(0), Le(10**6)] = 0
    seconds: Number | None = None
    memory: Number | None = None
    parameters: Number | None = None
    artifact: Number | None = None
    forgetting: Number | None = None

    @property
    def judged(self) -> Judged:
        """As a summary has it, to be drawn."""
        return Judged(
            *(self.candidate, self.lr, self.verdict, self.difference, self.interval),
            p=self.p,
            mean=self.mean,
        )


@dataclass(frozen=True)
class Published:
    """A comparison as it is published; candidates in the order in which they were given."""

    answer: Text
    metric: Text
    baseline: Text
    delta: Number
    candidates: Annotated[list[Line], MaxLen(_MOST)]
    measured_on: Text = ""
    greater_is_better: bool = True
    set: Literal["evaluation", "test"] | None = None
    cells: dict[Text, int] = field(default_factory=dict)
    notes: Annotated[list[Text], MaxLen(_MOST)] = field(default_factory=list)

    @classmethod
    def of(cls, comparison: Comparison, results: Sequence[Result], summary: Summary) -> Published:
        """Return what is published of a comparison, fit for strangers' eyes."""
        places = Places.of(comparison.folder)
        return cls(
            answer(summary),
            clean(summary.metric or "", NAME),
            clean(summary.baseline, NAME),
            summary.delta,
            [_line(row) for row in rows(summary, results)[:_MOST]],
            measured_on(summary),
            summary.greater_is_better,
            summary.set,
            dict(Counter(result.status for result in results)),
            [places.clean(note) for note in summary.notes[:_MOST]],
        )

    @classmethod
    def read(cls, fact: object) -> Published | None:
        """Return what a manifest says, or None where it says none, or something else."""
        import pydantic

        try:
            return pydantic.TypeAdapter(cls).validate_python(fact)
        except pydantic.ValidationError:
            return None

    def fact(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return dataclasses.asdict(self)


def _line(row: Row) -> Line:
    judged = row.judged
    return Line(
        row.name,
        judged.verdict,
        lr=judged.lr,
        mean=judged.mean,
        difference=judged.difference,
        interval=judged.interval,
        p=judged.p,
        seeds=len(judged.seeds),
        seconds=row.seconds,
        memory=row.memory,
        parameters=row.parameters,
        artifact=row.artifact,
        forgetting=row.forgetting,
    )
