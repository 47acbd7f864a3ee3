"""A cell's answers, example by example, as a small file: what candidates are compared by.

An example is known by a hash of its inputs and labels, keyed by a random key of the comparison:
nothing of a text can be found from the file. Of several alike, each is counted.

A file holds either ``outcomes``, float64 of shape (examples,), whose mean is the metric; or
``resamples``, float64 of shape (resamples,): the metric on the same resamples of the examples in
every cell, each drawn with replacement from the examples in the order of their hashes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

FILE = "outcomes.safetensors"
RESAMPLES = 1000
NOT_DECIDED = "not decided: no per-example outcome: "  # how a cell without them says why


@dataclass(frozen=True)
class Outcomes:
    """``keys``: uint8, (examples, 16), sorted; ``outcomes`` in their order, or ``resamples``.

    ``metric`` is its name without prefix. Exactly one of the two is there.
    """

    metric: str
    keys: np.ndarray
    outcomes: np.ndarray | None = None
    resamples: np.ndarray | None = None


def write_outcomes(path: Path, found: Outcomes) -> None:
    """Write a cell's outcomes; the file appears complete or not at all."""
    from safetensors.numpy import save

    from ftplug.files.staged import replace_file

    tensors = {"keys": found.keys}
    tensors |= {} if found.outcomes is None else {"outcomes": found.outcomes}
    tensors |= {} if found.resamples is None else {"resamples": found.resamples}
    replace_file(path, save(tensors, metadata={"metric": found.metric}))


def read_outcomes(path: Path) -> Outcomes:
    """Read a cell's outcomes."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metric = (file.metadata() or {})["metric"]
    keys, outcomes = tensors["keys"], tensors.get("outcomes")
    return Outcomes(metric, keys, outcomes, tensors.get("resamples"))
