"""What a comparison's cells left: ``results.jsonl``, one line a cell, written once when it ended.

A line that was torn by a kill is dropped when the file is read: its cell runs again.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ftplug.errors import FtplugError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FILE = "results.jsonl"
CELLS = "cells"  # a folder a cell, by its id: log.txt, outcomes.safetensors, artifact/

Status = Literal["finished", "pruned", "diverged", "failed", "out_of_memory"]


@dataclass(frozen=True)
class Cell:
    """One run of the script: a candidate, as given, at a learning rate with a seed.

    ``lr`` is None for the script's own: suggested rates are asked for, and its methods have none.
    """

    candidate: str
    lr: float | None
    seed: int

    @property
    def id(self) -> str:
        """Its name in ``cells/``: the same in every run of the comparison."""
        text = json.dumps([self.candidate, self.lr, self.seed])
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass
class Result:
    """How a cell ended, and what was measured in it; a line of ``results.jsonl``.

    ``metrics`` has the measured set's last values by name, without prefix, ``set`` which it was:
    ``test`` where the script evaluated or predicted on data other than its evaluation set after
    training, else ``evaluation``. ``chosen_by`` is the metric on the evaluation set by which rates
    are chosen: the best epoch's where the best model is kept, else the last one's. ``epochs`` has
    ``{"epoch": 1.0, "metrics": {…}}`` of the evaluation set.

    Sizes are in bytes, times in seconds; ``seconds`` is the whole life of the cell's process.
    ``outcomes`` is a path relative to the comparison's folder, or None, and ``no_outcomes`` says
    why. ``fresh`` is a digest of the values that fresh tensors (a head, an adapter) began with.
    ``could_cache``: ``trunk-cache`` would fit beside its methods.
    ``forgetting`` is the mean KL divergence to the base's answers per token, in nats, for language
    models.
    """

    candidate: str
    lr: float | None
    seed: int
    status: Status
    reason: str | None = None
    metric: str | None = None
    greater_is_better: bool = True
    set: Literal["evaluation", "test"] | None = None
    chosen_by: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    seconds: float | None = None
    train_seconds: float | None = None
    train_cpu_seconds: float | None = None
    evaluation_seconds: float | None = None
    start_seconds: float | None = None
    samples_per_second: float | None = None
    tokens_per_second: float | None = None
    peak_rss: int | None = None
    peak_gpu: int | None = None
    trained_parameters: int | None = None
    total_parameters: int | None = None
    optimizer_bytes: int | None = None
    artifact_bytes: int | None = None
    forgetting: float | None = None
    outcomes: str | None = None
    no_outcomes: str | None = None
    fresh: str | None = None
    could_cache: bool = False
    methods: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def cell(self) -> Cell:
        """Which cell it is of."""
        return Cell(self.candidate, self.lr, self.seed)

    @property
    def value(self) -> float | None:
        """The metric on the measured set."""
        return None if self.metric is None else self.metrics.get(self.metric)


def to_line(result: Result) -> str:
    """Return a result as its line, without the line's end.

    What is no Unicode in a script's texts (bytes of a file's name in an exception) becomes ``?``.
    """
    line = json.dumps(dataclasses.asdict(result), ensure_ascii=False)
    return line.encode("utf-8", errors="replace").decode("utf-8")


def read_results(path: Path) -> list[Result]:
    """Read the results of a comparison, none where there is no file yet; a torn last line is left.

    Raises :class:`FtplugError` for a line that is not one of ours.
    """
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace")
    *whole, _ = text.split("\n")  # a text in it may have other ends of lines
    found: dict[Cell, Result] = {}
    for at, line in enumerate(whole, start=1):
        result = _read(line, f"{path}:{at}")
        if result.cell in found:
            raise FtplugError(f"{path}:{at}: a second line of one cell: delete one of the two")
        found[result.cell] = result
    return list(found.values())


def read_result(written: str | bytes) -> Result:
    """Return the result that a line holds; ValueError for whatever is none."""
    result = _adapter().validate_json(written)
    if not _is_sound(result):
        raise ValueError("values that no cell has")
    return result


def _is_sound(result: Result) -> bool:
    """Whether values are such as a cell has, beyond their types."""
    rate = result.lr is None or 0 < result.lr < math.inf
    epochs = all(
        isinstance(metrics := epoch.get("metrics"), dict)
        and all(
            isinstance(one, int | float) for one in (epoch.get("epoch") or 0, *metrics.values())
        )
        for epoch in result.epochs
    )
    return rate and epochs and result.seed >= 0


@functools.cache
def _adapter() -> TypeAdapter[Result]:
    import pydantic

    return pydantic.TypeAdapter(Result)


def _read(line: str, place: str) -> Result:
    try:
        return read_result(line)
    except ValueError:
        raise FtplugError(
            f"{place}: no result of a comparison: delete the line, and its cell runs again"
        ) from None
