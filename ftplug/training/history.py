"""The history of a run: its curve, and the metrics of the weights that were kept."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_POINTS = 200  # of either curve: more than a picture shows
TIMING = ("_runtime", "_per_second", "_model_preparation_time")


@dataclass(frozen=True)
class Taken:
    """What calls of ``train()`` took: optimizer steps, epochs, and their log."""

    steps: int = 0
    epochs: float = 0.0
    log: Sequence[Mapping[str, Any]] = ()

    def followed_by(self, other: Taken) -> Taken:
        """Return both, the second counted on from the first."""
        later = [
            {**log, "step": log.get("step", 0) + self.steps}
            | ({"epoch": log["epoch"] + self.epochs} if log.get("epoch") is not None else {})
            for log in other.log
        ]
        steps, epochs = self.steps + other.steps, self.epochs + other.epochs
        return Taken(steps, epochs, [*self.log, *later])


def curve(
    log: Sequence[Mapping[str, Any]], scalars: Collection[str] = ()
) -> dict[str, list[dict[str, float]]]:
    """Return the losses and evaluations of a Trainer's log, thinned, finite numbers only.

    ``{"train": [{step, epoch, loss, learning_rate}, …], "eval": [{step, epoch, eval_loss, …}, …]}``
    ``scalars`` names what else belongs to the training curve: what methods log.
    """
    where = ("step", "epoch")
    trained = (*where, "loss", "learning_rate", *sorted(scalars))
    train = [_numbers(entry, trained) for entry in log if "loss" in entry]
    evaluated = [_numbers(entry, where) | evaluation(entry) for entry in log]
    return {
        "train": _thinned([point for point in train if "loss" in point]),
        "eval": _thinned([point for point in evaluated if any(k not in where for k in point)]),
    }


def evaluation(entry: Mapping[str, Any], prefix: str = "eval_") -> dict[str, float]:
    """Return the metrics of one evaluation, without what it says about speed."""
    names = [k for k in entry if k.startswith(prefix) and not k.endswith(TIMING)]
    return _numbers(entry, names)


def metrics(
    state: Any, restored: tuple[int, int] | None, but: Collection[int] = ()
) -> dict[str, float]:
    """Return the evaluation of the weights as they are: of this step, or of the restored best one.

    ``restored`` is the best checkpoint's step and the length of the log when it was loaded; ``but``
    are places in the log of evaluations on other data.
    """
    step, start = restored or (state.global_step, len(state.log_history))
    logs = [(at, log) for at, log in enumerate(state.log_history) if at not in but]
    of_step = [log for _, log in logs if log.get("step") == step]
    of_step += [log for at, log in logs if at >= start]
    return {key: value for log in of_step for key, value in evaluation(log).items()}


def _numbers(entry: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    """Return the finite numbers among some entries, with six digits."""
    logged = {name: entry.get(name) for name in names}
    return {
        name: value if isinstance(value, int) else float(f"{value:.6g}")
        for name, value in logged.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _thinned(points: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return at most so many points, evenly spread, the first and the last among them."""
    if len(points) <= _POINTS:
        return points
    last = len(points) - 1
    return [points[round(i * last / (_POINTS - 1))] for i in range(_POINTS)]
