"""What a watched Trainer left, as the fields of a cell's :class:`Result`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ftplug.comparing.measuring.answers import NoOutcomes, outcomes_of
from ftplug.comparing.measuring.ending import Ended
from ftplug.comparing.measuring.metrics import asked_for
from ftplug.comparing.measuring.sizes import folder_bytes, optimizer_bytes
from ftplug.comparing.measuring.watching import Watching, unknown
from ftplug.comparing.outcomes import FILE, NOT_DECIDED, write_outcomes
from ftplug.training.record import peak_resident

if TYPE_CHECKING:
    from ftplug.comparing.measuring.evaluations import Evaluation
    from ftplug.comparing.results import Result


def gather_course(result: Result, watched: Watching) -> None:
    """Note what is known however a cell ended: its epochs, its methods, its memory."""
    result.metric, result.greater_is_better = watched.metric, watched.greater_is_better
    for name, value in watched.begins_as.items():
        setattr(result, name, value)
    result.epochs = epochs_of(watched)
    result.peak_rss = peak_resident()
    if torch.cuda.is_available():
        result.peak_gpu = int(torch.cuda.max_memory_allocated())
    own = [e for e in _own(watched) if watched.metric in e.metrics]
    if own and watched.metric:
        kept = [e for e in own if _is_of_kept_weights(e, watched)]
        result.chosen_by = finite((kept or own)[-1].metrics).get(watched.metric)
    if watched.has_begun:
        result.evaluation_seconds = watched.timed.evaluation


def gather_trained(result: Result, watched: Watching, artifact: Path) -> None:
    """Note what is known once training has ended."""
    seconds, batches = watched.timed.training, watched.batches
    result.train_seconds = seconds
    result.train_cpu_seconds = watched.timed.training_processor
    if seconds:
        result.samples_per_second = batches.samples / seconds
        if batches.tokens is not None:
            result.tokens_per_second = float(batches.tokens) / seconds
    assert watched.trainer is not None
    result.optimizer_bytes = optimizer_bytes(watched.trainer.optimizer)
    result.artifact_bytes = folder_bytes(artifact)


def gather_measured(result: Result, watched: Watching, key: str, folder: Path) -> None:
    """Note the metric of the weights that are kept, on the test set if the script has one.

    Where the script has not evaluated these weights itself they are evaluated now. Raises
    :class:`Ended` where there is no metric, or one that is not a finite number.
    """
    found = _measured(watched)
    metric = watched.metric
    if metric is None or metric not in found.metrics:
        assert watched.trainer is not None
        raise Ended(
            "failed", unknown(asked_for(watched.asked, watched.trainer.args), found.metrics)
        )
    gather_course(result, watched)  # the evaluation now counts, too
    result.set = "test" if found.elsewhere else "evaluation"
    if others := {one.prefix for one in watched.evaluations if one.is_test} - {found.prefix}:
        result.notes.append(
            f"of the sets evaluated after training {found.prefix!r} counts, not "
            f"{', '.join(map(repr, sorted(others)))}"
        )
    result.metrics = finite(found.metrics)
    if not math.isfinite(found.metrics[metric]):
        raise Ended("diverged", f"{metric} is {found.metrics[metric]} after training")
    try:
        write_outcomes(folder / FILE, outcomes_of(found, metric, key))
        result.outcomes = (folder / FILE).relative_to(folder.parents[1]).as_posix()
    except NoOutcomes as reason:
        result.no_outcomes = f"{NOT_DECIDED}{reason}"


def epochs_of(watched: Watching) -> list[dict[str, Any]]:
    """Return the evaluations of a training on its own evaluation sets, one a step."""
    epochs: dict[int, dict[str, Any]] = {}
    for one in _own(watched):
        if one.step and not one.after:
            epoch = epochs.setdefault(one.step, {"epoch": one.epoch, "metrics": {}})
            epoch["metrics"] |= finite(one.metrics)
    return list(epochs.values())


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that JSON has numbers for."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _own(watched: Watching) -> list[Evaluation]:
    return [one for one in watched.evaluations if not one.elsewhere]


def _is_of_kept_weights(one: Evaluation, watched: Watching) -> bool:
    return watched.trained > 0 and (one.after or one.step == watched.final_step)


def _measured(watched: Watching) -> Evaluation:
    """Return the evaluation that a cell is judged by."""
    having = [one for one in watched.evaluations if watched.metric in one.metrics]
    if tests := [one for one in having if one.is_test]:
        named = [one for one in tests if one.is_named_test]
        return (named or tests)[-1]
    kept = [e for e in having if not e.elsewhere and _is_of_kept_weights(e, watched)]
    if kept and not kept[-1].is_dropped:
        return kept[-1]
    trainer = watched.trainer
    assert trainer is not None
    if trainer.eval_dataset is None:
        if kept:
            return kept[-1]
        raise Ended("failed", "the script evaluates nothing: give its Trainer an eval_dataset")
    before = len(watched.evaluations)
    trainer.evaluate()
    found = watched.evaluations[before:]
    return next((one for one in found if watched.metric in one.metrics), found[-1])
