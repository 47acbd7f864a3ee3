"""What a benchmark found: printed as it comes, kept as JSON, and rendered as tables.

A ratio compares two things that were measured in turn; a figure is one number; a series shows how
numbers grow. Each may have a goal, and a goal that is missed says so wherever it is shown.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pairs import Paired

Unit = Literal["s", "ms", "MiB", "bytes", "times", ""]
MISSED = " **missed**"


@dataclass(frozen=True)
class Goal:
    """What a value must be: at most or at least a limit; or its interval must include it."""

    kind: Literal["≤", "≥", "includes"]
    limit: float

    def __str__(self) -> str:
        """Return it as a table shows it: ``≤ 1.3``."""
        return f"{self.kind} {shown(self.limit)}"

    def met(self, value: float, low: float, high: float) -> bool:
        """Return whether a value with this interval is what it must be."""
        if self.kind == "includes":
            return low <= self.limit <= high
        return value <= self.limit if self.kind == "≤" else value >= self.limit


@dataclass(frozen=True)
class Ratio:
    """How many times as much ``a`` takes as ``b``, by pairs of measurements."""

    a: str
    b: str
    found: Paired
    unit: Unit
    goal: Goal | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        medians = f"{shown(self.found.median_a)} / {shown(self.found.median_b)} {self.unit}".strip()
        return (
            *(self.a, self.b, str(self.found), medians),
            _goal(self.goal, self.found.ratio, self.found.low, self.found.high),
        )


@dataclass(frozen=True)
class Figure:
    """One number."""

    what: str
    value: float
    unit: Unit
    goal: Goal | None = None

    def cells(self) -> tuple[str, ...]:
        """Return the row of the table."""
        return (
            *(self.what, f"{shown(self.value)} {self.unit}".strip()),
            _goal(self.goal, self.value, self.value, self.value),
        )


@dataclass(frozen=True)
class Series:
    """Numbers that grow: the first column is what with."""

    columns: Sequence[str]
    rows: Sequence[Sequence[float]]


@dataclass
class Found:
    """What one benchmark found, in the order it was found."""

    ratios: list[Ratio] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)

    def ratio(self, a: str, b: str, found: Paired, unit: Unit, goal: Goal | None = None) -> None:
        """Add and print how two things compare."""
        self.ratios.append(Ratio(a, b, found, unit, goal))
        print(" | ".join(self.ratios[-1].cells()), flush=True)

    def figure(self, what: str, value: float, unit: Unit, goal: Goal | None = None) -> None:
        """Add and print a number."""
        self.figures.append(Figure(what, value, unit, goal))
        print(" | ".join(self.figures[-1].cells()), flush=True)

    def grows(self, columns: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
        """Add and print a series."""
        self.series.append(Series(columns, rows))
        print(table(columns, [[shown(value) for value in row] for row in rows]), flush=True)

    def keep(self, file: Path | None) -> None:
        """Write all of it as JSON, if a file is given."""
        if file:
            text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
            file.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> Found:
        """Return what ``keep`` wrote."""
        return cls(
            [Ratio(**row | {"found": Paired(**row["found"])} | _read_goal(row))
             for row in kept["ratios"]],
            [Figure(**row | _read_goal(row)) for row in kept["figures"]],
            [Series(**series) for series in kept["series"]],
        )  # fmt: skip


def _read_goal(row: Mapping[str, Any]) -> dict[str, Goal | None]:
    return {"goal": Goal(**row["goal"]) if row["goal"] else None}


def _goal(goal: Goal | None, value: float, low: float, high: float) -> str:
    if goal is None:
        return ""
    return f"{goal}{'' if goal.met(value, low, high) else MISSED}"


def shown(value: float) -> str:
    """Return a number with the digits that mean something."""
    if value and abs(value) < 1e-3:
        return f"{value:.0e}"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(doc: str, measure: Callable[[Found, int], None], pairs: int) -> None:
    """Run one benchmark as a command: print what it finds, and keep it with ``--json``."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pairs", type=int, default=pairs, help=f"of measurements (default {pairs})"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep what is found here")
    options = parser.parse_args()
    if options.pairs < 2:
        parser.error(f"--pairs {options.pairs}: an interval needs two pairs or more")
    found = Found()
    measure(found, options.pairs)
    found.keep(options.json)
