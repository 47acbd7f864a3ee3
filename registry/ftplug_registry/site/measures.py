"""The metrics of an artifact: each with the data it was measured on and, where known, an interval.

An accuracy on a known number of rows has Wilson's score interval (E. B. Wilson, Probable inference,
1927): what another sample of that size could say. It knows nothing of seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from ftplug.comparing.report.texts import clean, number
from ftplug_registry.card.markdown import is_number
from ftplug_registry.card.metadata import metric_name, section

_LONGEST = 80  # characters of a name
_MOST = 200  # metrics that a page shows
_LARGEST = 1e15
_Z = NormalDist().inv_cdf(0.975)
_ACCURACY = "accuracy"
VALIDATION = "the run's validation data"
OTHER = "other data"


@dataclass(frozen=True)
class Measure:
    """One metric: its value, what it was measured on, and on how many rows if that is known."""

    name: str
    value: float
    data: str
    split: str = ""
    rows: int | None = None
    interval: tuple[float, float] | None = None

    @property
    def measured_on(self) -> str:
        """The data, the split and the number of rows, as far as they are known."""
        rows = f"{self.rows:,} rows" if self.rows else ""
        split = f"split {self.split}" if self.split else ""
        return ", ".join(filter(None, (self.data, split, rows)))

    @property
    def interval_shown(self) -> str:
        """The 95 % interval, or an empty text."""
        if self.interval is None:
            return ""
        low, high = self.interval
        return f"{number(low)} to {number(high)}"

    @property
    def is_loss(self) -> bool:
        """Whether it is a loss, which says little beside the loss of another model."""
        return self.name.endswith("loss")


def measures(facts: Mapping[str, Any]) -> list[Measure]:
    """Return the metrics of a manifest: those on held-out data first, losses last."""
    if not facts:
        return []
    training = facts["training"]
    found = [*_elsewhere(training), *_validation(facts, training)]
    return sorted(found, key=lambda one: (one.is_loss, one.split != "test"))[:_MOST]


def wilson(share: float, rows: int) -> tuple[float, float]:
    """Return the 95 % score interval of a share of ``rows`` independent answers."""
    middle = (share + _Z**2 / (2 * rows)) / (1 + _Z**2 / rows)
    half = _Z / (1 + _Z**2 / rows) * math.sqrt(share * (1 - share) / rows + (_Z / (2 * rows)) ** 2)
    return max(0.0, middle - half), min(1.0, middle + half)


def _validation(facts: Mapping[str, Any], training: Mapping[str, Any]) -> Iterator[Measure]:
    data, author = section(training, "data"), facts["author"]
    evaluation = section(training, "evaluation")
    named = data.get("eval_dataset") or data.get("dataset")
    named = named or next(iter(author.get("dataset_names") or author.get("datasets") or ()), None)
    for key, value in section(training, "metrics").items():
        name, split = metric_name(key)
        split = data.get("eval_split", split) if split == "validation" else split
        ours = section(evaluation, "metrics").get(key)
        rows = evaluation.get("rows") if ours == _ACCURACY else None
        yield from _measure(name, value, named or VALIDATION, split, rows)


def _elsewhere(training: Mapping[str, Any]) -> Iterator[Measure]:
    measured = training.get("metrics_on_other_data")
    for one in measured if isinstance(measured, list) else ():
        if not isinstance(one, Mapping):
            continue
        data = section(one, "data")
        for name, value in section(one, "metrics").items():
            named, split = data.get("dataset") or OTHER, data.get("split") or ""
            yield from _measure(name, value, named, split, data.get("rows"))


def _measure(name: str, value: Any, data: Any, split: Any, rows: Any) -> Iterator[Measure]:
    if not is_number(value) or not abs(value) < _LARGEST:  # nor NaN
        return
    known = rows if isinstance(rows, int) and is_number(rows) and 0 < rows < _LARGEST else None
    name = clean(name.removeprefix("eval_").replace("_", " "), _LONGEST)
    is_share = known is not None and name == _ACCURACY and 0 <= value <= 1
    interval = wilson(value, known) if is_share and known else None
    texts = clean(data, _LONGEST), clean(split, _LONGEST)
    yield Measure(name, float(value), *texts, rows=known, interval=interval)
