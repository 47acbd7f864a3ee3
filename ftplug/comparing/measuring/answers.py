"""Outcomes by example of an evaluation's metric, or the metric on resamples of its examples.

Nothing is taken on trust. Values by example count where their mean gives the metric again, not only
of the evaluation but of part of it and of altered predictions too: a metric such as F1 may equal a
mean by chance. All draws follow from the comparison's key, so that they are the same in all cells.
"""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ftplug.comparing.measuring.examples import in_order, keys_of
from ftplug.comparing.measuring.losses import agree
from ftplug.comparing.measuring.metrics import bare, is_loss
from ftplug.comparing.outcomes import RESAMPLES, Outcomes
from ftplug.context import one_line

if TYPE_CHECKING:
    from transformers import EvalPrediction

    from ftplug.comparing.measuring.evaluations import Evaluation

SECONDS = 120.0  # that compute_metrics may be called again for
_FIRST = 8  # examples that tell cheaply whether a metric may be a mean

Compute = Callable[[Any], float]
Rule = Callable[[Any, Compute], np.ndarray]


class NoOutcomes(Exception):
    """Why an evaluation has no outcome by example."""


def outcomes_of(evaluation: Evaluation, metric: str, key: str) -> Outcomes:
    """Return what a metric of an evaluation follows from; raises NoOutcomes with the reason."""
    if evaluation.no_examples:
        raise NoOutcomes(f"the examples cannot be told apart: {evaluation.no_examples}")
    keys = keys_of(evaluation.examples, key)
    order, value = in_order(keys), evaluation.metrics[metric]
    if is_loss(metric):
        return Outcomes(metric, keys[order], outcomes=_losses(evaluation, value, len(keys))[order])
    prediction = _whole(evaluation, len(keys))
    compute = _within(SECONDS, _computed(evaluation, metric))
    ordered = _take(prediction, order)
    with _undisturbed():
        if not agree(_tried(compute, ordered), value):
            raise NoOutcomes("compute_metrics does not give the same value for the same examples")
        values = _values(ordered, compute, value, int(key, 16))
        if values is not None:
            return Outcomes(metric, keys[order], outcomes=values)
        return Outcomes(metric, keys[order], resamples=_resampled(ordered, compute, int(key, 16)))


def _losses(evaluation: Evaluation, value: float, examples: int) -> np.ndarray:
    if evaluation.no_losses or not evaluation.losses:
        raise NoOutcomes(evaluation.no_losses or "the loss was not measured by example")
    losses = np.concatenate([share.numpy() for share in evaluation.losses])
    if len(losses) != examples or not agree(float(losses.mean()), value):
        raise NoOutcomes("the mean over examples is not the loss that the Trainer reports")
    return losses


def _whole(evaluation: Evaluation, examples: int) -> EvalPrediction:
    """Return the predictions, of which there must be one an example."""
    if evaluation.prediction is None:
        raise NoOutcomes(
            "the metric is not of one compute_metrics over all predictions (batch_eval_metrics, or "
            "a Trainer that evaluates in its own way)"
        )
    found = {len(leaf) for leaf in _leaves(evaluation.prediction)}
    if found != {examples}:
        given = " and ".join(map(str, sorted(found)))
        raise NoOutcomes(f"{examples} examples were evaluated, but compute_metrics got {given}")
    return evaluation.prediction


def _computed(evaluation: Evaluation, metric: str) -> Compute:
    """Return the script's ``compute_metrics`` as a function that gives this metric alone."""
    compute, prefix = evaluation.compute, evaluation.prefix
    wanted = evaluation.name(metric)
    assert compute is not None

    def value(prediction: Any) -> float:
        found = {f"{prefix}_{bare(n, prefix)}": v for n, v in compute(prediction).items()}
        if wanted not in found:
            raise NoOutcomes("compute_metrics does not give the metric: the Trainer adds it")
        return float(found[wanted])

    return value


def _within(seconds: float, compute: Compute) -> Compute:
    """Return a function that answers until so many seconds are over, counted from now."""
    began = time.perf_counter()

    def value(prediction: Any) -> float:
        if time.perf_counter() - began > seconds:
            raise NoOutcomes(f"calling compute_metrics again takes longer than {seconds:.0f} s")
        return compute(prediction)

    return value


def _tried(compute: Compute, prediction: Any) -> float:
    try:
        return compute(prediction)
    except NoOutcomes:
        raise
    except Exception as error:
        raise NoOutcomes(f"compute_metrics cannot be called again: {one_line(error)}") from error


def _values(prediction: Any, compute: Compute, value: float, seed: int) -> np.ndarray | None:
    """Return values by example whose mean is the metric, or None where there are none."""
    for rule in (_hits, _alone):
        with contextlib.suppress(Exception):
            few = _take(prediction, np.arange(min(_FIRST, _rows(prediction))))
            start = time.perf_counter()
            found = rule(few, compute)
            takes = (time.perf_counter() - start) / len(found) * _rows(prediction)
            # Other predictions than these are asked for as well, and resamples where it is no mean.
            if takes > SECONDS / 4 or not agree(float(found.mean()), compute(few)):
                continue
            values = rule(prediction, compute)
            if agree(float(values.mean()), value) and _holds(rule, prediction, compute, seed):
                return values
    return None


def _holds(rule: Rule, prediction: Any, compute: Compute, seed: int) -> bool:
    """Whether a rule gives the metric of other predictions as well."""
    for probe in _probes(prediction, seed):
        try:
            expected = compute(probe)
        except Exception:  # it decodes tokens, and these are none
            continue
        if not agree(float(rule(probe, compute).mean()), expected):
            return False
    return True


def _probes(prediction: Any, seed: int) -> Iterator[Any]:
    """Yield a part of the predictions, and some with the answers of half of the examples turned."""
    draw = np.random.default_rng(seed)
    examples = _rows(prediction)
    half = np.sort(draw.permutation(examples)[: (examples + 1) // 2])
    yield _take(prediction, half)
    few = draw.permutation(examples)[:64]
    part = _take(prediction, few)
    turned = _take(part, np.arange(len(few)))
    turned.predictions = _turned(turned.predictions, np.arange(0, len(few), 2))
    yield turned


def _turned(values: Any, rows: np.ndarray) -> Any:
    if isinstance(values, np.ndarray):
        if values.dtype.kind in "fiu" and values.size:
            values[rows] = (values.max() + values.min()) - values[rows]
        return values
    return type(values)(_turned(value, rows) for value in values)


def _hits(prediction: Any, compute: Compute) -> np.ndarray:
    """Return 1 for each example whose class is right, else 0."""
    given, true = prediction.predictions, prediction.label_ids
    given = given[0] if isinstance(given, tuple) else given
    answers = given.argmax(-1) if given.ndim == 2 else given
    if true.ndim != 1 or answers.shape != true.shape or true.dtype.kind not in "iu":
        raise NoOutcomes("no classes")
    return np.asarray(answers == true, dtype=np.float64)


def _alone(prediction: Any, compute: Compute) -> np.ndarray:
    """Return the metric of each example alone."""
    rows = range(_rows(prediction))
    return np.array([compute(_take(prediction, np.array([row]))) for row in rows], np.float64)


def _resampled(prediction: Any, compute: Compute, seed: int) -> np.ndarray:
    """Return the metric on resamples, float64 of (RESAMPLES,)."""
    draw, examples, start = np.random.default_rng(seed), _rows(prediction), time.perf_counter()
    found = np.empty(RESAMPLES)
    for at in range(RESAMPLES):
        found[at] = _tried(compute, _take(prediction, draw.integers(examples, size=examples)))
        taken = time.perf_counter() - start
        if taken > SECONDS or (at == 9 and taken * RESAMPLES / 10 > SECONDS):
            raise NoOutcomes(
                f"{RESAMPLES:,} resamples of compute_metrics take longer than {SECONDS:.0f} s"
            )
    if undefined := int((~np.isfinite(found)).sum()):
        raise NoOutcomes(f"the metric is undefined on {undefined:,} of {RESAMPLES:,} resamples")
    return found


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep what a script says in compute_metrics from being said a thousand times."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _rows(prediction: Any) -> int:
    return len(next(_leaves(prediction)))


def _leaves(value: Any) -> Iterator[np.ndarray]:
    if isinstance(value, np.ndarray):
        yield value
    elif hasattr(value, "label_ids"):
        yield from _leaves([value.predictions, value.label_ids, value.inputs, value.losses])
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _leaves(one)


def _take(value: Any, index: np.ndarray) -> Any:
    """Return the examples of predictions, however these are nested."""
    if isinstance(value, np.ndarray):
        return value[index]
    if hasattr(value, "label_ids"):
        names = ("predictions", "label_ids", "inputs", "losses")
        return type(value)(**{name: _take(getattr(value, name), index) for name in names})
    if isinstance(value, dict):
        return {name: _take(one, index) for name, one in value.items()}
    return type(value)(_take(one, index) for one in value) if value is not None else None
