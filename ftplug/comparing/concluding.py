"""What follows from a comparison's results: a verdict on each candidate beside the baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ftplug.comparing import verdicts
from ftplug.comparing.choosing import at_edge, chosen_rates, rates_tried, turned_mean
from ftplug.comparing.comparison import Comparison
from ftplug.comparing.measurements import Measured, contrast, measured
from ftplug.comparing.pareto import front
from ftplug.comparing.results import Result
from ftplug.comparing.statistics import holm
from ftplug.comparing.summary import Judged, Summary

Finished = Mapping[str, Sequence[Result]]

ONE_SEED = "one seed: how much seeds vary is unknown, so nothing is better, worse or equivalent"
SAME_SET = "chosen and measured on the same set"
SAME_START = "seeds vary order and dropout only"
COULD_CACHE = (
    "+trunk-cache would run its frozen layers once for each example, in all cells, without dropout"
)


def conclude(comparison: Comparison, results: Sequence[Result], directory: Path) -> Summary:
    """Return what follows; ``directory`` is the comparison's folder, where outcomes are read.

    Raises :class:`FtplugError` where cells were evaluated on different examples, naming them.
    """
    rates = chosen_rates(comparison, results)
    finished = {
        candidate: _finished(results, candidate, rates.get(candidate))
        for candidate in comparison.candidates
    }
    outcomes = measured(directory, finished)
    judged = [
        _describe(candidate, rates.get(candidate), results, finished[candidate])
        for candidate in comparison.candidates
    ]
    _decide(comparison, judged, finished, outcomes)
    for candidate in front(finished):
        next(one for one in judged if one.candidate == candidate).pareto = True
    return _summary(comparison, results, judged, finished)


def _is_finished(cell: Result) -> bool:
    return cell.status == "finished"


def _finished(results: Sequence[Result], candidate: str, rate: float | None) -> list[Result]:
    """Return a candidate's finished cells at its rate, by seed."""
    cells = rates_tried(results, candidate).get(rate, [])
    by_seed = {cell.seed: cell for cell in cells if _is_finished(cell)}
    return [by_seed[seed] for seed in sorted(by_seed)]


def _describe(
    candidate: str, rate: float | None, results: Sequence[Result], finished: Sequence[Result]
) -> Judged:
    """Return what is known of a candidate before it is compared."""
    judged = Judged(candidate, rate, "not_decided", seeds=[cell.seed for cell in finished])
    ended = [result for result in results if result.candidate == candidate]
    if not ended:
        judged.reason = "none of its cells has ended"
    elif not finished:
        first = next((cell for cell in ended if cell.status == "pruned"), ended[0])
        judged.verdict = "not_decided" if first.status == "pruned" else "failed"
        judged.reason = _how_it_ended(first)
    values = [cell.value for cell in finished if cell.value is not None]
    judged.mean = math.fsum(values) / len(values) if values else None
    edge = at_edge(results, candidate, rate)
    if edge and finished:
        beyond = f"{edge.next_rate:g} was not tried"
        judged.notes.append(f"its rate {edge.rate:g} is the {edge.side} that was tried: {beyond}")
    for cell in rates_tried(results, candidate).get(rate, []) if finished else []:
        if cell.status not in ("finished", "pruned"):
            judged.notes.append(f"its mean is without seed {cell.seed}: {_how_it_ended(cell)}")
    starts = [cell.fresh for cell in finished]
    if len(starts) > 1 and starts[0] is not None and len(set(starts)) == 1:
        judged.notes.append(SAME_START)
    if any(cell.could_cache for cell in finished):
        judged.notes.append(COULD_CACHE)
    return judged


def _how_it_ended(result: Result) -> str:
    status = result.status.replace("_", " ")
    return f"{status}: {result.reason}" if result.reason else status


def _decide(
    comparison: Comparison,
    judged: Sequence[Judged],
    finished: Finished,
    outcomes: Mapping[str, Mapping[int, Measured]],
) -> None:
    """Fill in differences, intervals, p and verdicts."""
    base = next(one for one in judged if one.candidate == comparison.baseline)
    without_base = None if finished[base.candidate] else f"the baseline: {base.reason}"
    found = {}
    for one in judged:
        if one is base or not finished[one.candidate]:
            continue
        one.reason = without_base
        if without_base is None:
            made = contrast(one.candidate, base.candidate, finished, outcomes)
            if isinstance(made, str):
                one.reason = made
            else:
                found[one.candidate] = made
    if base.verdict != "failed":
        base.verdict = "baseline"
    adjusted = dict(zip(found, holm([made.p for made in found.values()]), strict=True))
    for one in judged:
        if one.candidate in found:
            _fill(one, found[one.candidate], adjusted[one.candidate], comparison.delta)


def _fill(judged: Judged, found: verdicts.Contrast, p: float, delta: float) -> None:
    judged.difference, judged.p = found.difference, p
    judged.interval, judged.interval_90 = found.interval, found.interval_90
    judged.paired_seeds = found.seeds
    if found.seeds < len(judged.seeds):
        judged.notes.append(f"differences are of the {found.seeds} seeds that the baseline has too")
    judged.verdict = verdicts.verdict(found, p, delta)
    if judged.verdict != "not_decided":
        return
    judged.more_seeds = verdicts.more_seeds(found, p, delta)
    if found.seeds == 1:
        judged.reason = ONE_SEED
    elif judged.more_seeds is None:
        judged.reason = f"{verdicts.MOST_SEEDS} seeds would not decide it: more examples might"
    else:
        count = judged.more_seeds
        judged.reason = f"about {count} more seed{'s' if count > 1 else ''} would decide it"


def _summary(
    comparison: Comparison,
    results: Sequence[Result],
    judged: list[Judged],
    finished: Finished,
) -> Summary:
    cells = [*finished[comparison.baseline], *(cell for own in finished.values() for cell in own)]
    first = next((cell for cell in cells if cell.metric is not None), None)
    summary = Summary(
        metric=first.metric if first else comparison.metric,
        greater_is_better=first.greater_is_better if first else True,
        set=first.set if first else None,
        baseline=comparison.baseline,
        delta=comparison.delta,
        candidates=judged,
        best=_best(finished),
        complete=_complete(comparison, results, finished),
    )
    several = any(len(rates_tried(results, one.candidate)) > 1 for one in judged)
    if summary.set == "evaluation" and several:
        summary.notes.append(SAME_SET)
    if cells and max(len(own) for own in finished.values()) == 1:
        summary.notes.append(ONE_SEED)
    return summary


def _best(finished: Finished) -> str | None:
    """Return the candidate with the best mean on the evaluation set, of those with most seeds."""
    most = max(len(cells) for cells in finished.values())
    if not most:
        return None
    scores = {one: turned_mean(cells) for one, cells in finished.items() if len(cells) == most}
    return max(scores, key=lambda one: scores[one])


def _complete(comparison: Comparison, results: Sequence[Result], finished: Finished) -> bool:
    """Whether each cell of the plan has ended, as far as results show the plan.

    All seeds of the chosen rate are; of each rate where rates were listed and time is not limited.
    A rate at which nothing finished needs no more seeds.
    """
    for candidate in comparison.candidates:
        tried = rates_tried(results, candidate)
        listed = comparison.rates if isinstance(comparison.rates, tuple) else ()
        if not tried or (None not in tried and not set(listed) <= set(tried)):
            return False
        own = finished[candidate]
        needed = {own[0].lr} if own else set()
        if listed and comparison.budget_minutes is None:
            needed |= {
                lr
                for lr, cells in tried.items()
                if any(cell.status == "finished" for cell in cells)
            }
        if any(len({cell.seed for cell in tried[lr]}) < comparison.seeds for lr in needed):
            return False
    return True
