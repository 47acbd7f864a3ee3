"""What follows from a comparison: ``DIR/summary.json``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ftplug.errors import FtplugError
from ftplug.files.staged import replace_file

FILE = "summary.json"

Verdict = Literal["better", "worse", "equivalent", "not_decided", "baseline", "failed"]


@dataclass
class Judged:
    """One candidate beside the baseline, at the learning rate that was chosen for it.

    ``difference`` is candidate minus baseline of the metric, turned so that more is better, with
    its 95 % ``interval`` and the 90 % one that equivalence is decided by; ``p`` is Holm's adjusted
    one. ``mean`` is the metric over ``seeds``; of these the baseline has ``paired_seeds`` as well,
    which differences are over. ``reason`` says why a verdict is not a decision.
    """

    candidate: str
    lr: float | None
    verdict: Verdict
    difference: float | None = None
    interval: tuple[float, float] | None = None
    interval_90: tuple[float, float] | None = None
    p: float | None = None
    mean: float | None = None
    seeds: list[int] = field(default_factory=list)
    paired_seeds: int = 0
    reason: str | None = None
    more_seeds: int | None = None
    pareto: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass
class Summary:
    """The conclusions of a comparison, candidates in the order in which they were given."""

    metric: str | None
    greater_is_better: bool
    set: Literal["evaluation", "test"] | None
    baseline: str
    delta: float
    candidates: list[Judged]
    best: str | None = None
    complete: bool = True
    notes: list[str] = field(default_factory=list)

    def write(self, directory: Path) -> None:
        """Write the file of a comparison's folder."""
        text = json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"
        replace_file(directory / FILE, text.encode("utf-8"))

    @classmethod
    def read(cls, directory: Path) -> Summary:
        """Read it back; FtplugError where there is none."""
        import pydantic

        path = directory / FILE
        try:
            return pydantic.TypeAdapter(cls).validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise FtplugError(f"{path}: no summary of ftplug compare: {error}") from None
