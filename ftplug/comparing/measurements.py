"""Outcomes of several cells, paired: the same examples at the same seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ftplug.comparing import verdicts
from ftplug.comparing.outcomes import NOT_DECIDED, Outcomes, read_outcomes
from ftplug.comparing.results import CELLS, Result
from ftplug.errors import FtplugError

if TYPE_CHECKING:
    from ftplug.comparing.statistics import Floats

_NAMED = 3  # cells in a refusal


@dataclass(frozen=True)
class Measured:
    """A finished cell, and its outcomes or the reason why it has none."""

    result: Result
    outcomes: Outcomes | None
    why_not: str = ""


def measured(
    directory: Path, finished: Mapping[str, Sequence[Result]]
) -> dict[str, dict[int, Measured]]:
    """Read the outcomes of candidates' finished cells, by seed.

    Raises :class:`FtplugError` where cells were evaluated on different examples, naming them.
    """
    found = {
        candidate: {cell.seed: _read(directory, cell) for cell in cells}
        for candidate, cells in finished.items()
    }
    _refuse_different_examples([one for cells in found.values() for one in cells.values()])
    return found


def refuse_different_examples(directory: Path, results: Sequence[Result]) -> None:
    """Raise :class:`FtplugError` where finished cells were evaluated on different examples."""
    finished = [one for one in results if one.status == "finished"]
    _refuse_different_examples([_read(directory, one) for one in finished])


def _read(directory: Path, result: Result) -> Measured:
    from safetensors import SafetensorError

    if result.outcomes is None:
        why = (result.no_outcomes or "").removeprefix(NOT_DECIDED)
        return Measured(result, None, f"no per-example outcome{why and f': {why}'}")
    path = directory / result.outcomes
    try:
        outcomes = read_outcomes(path)
    except (OSError, KeyError, TypeError, ValueError, SafetensorError) as error:
        return Measured(result, None, f"no per-example outcome: {path} does not read: {error}")
    values = outcomes.resamples if outcomes.outcomes is None else outcomes.outcomes
    if values is None or not values.size or not np.isfinite(values).all():
        return Measured(result, None, f"no per-example outcome: {path} has no finite numbers")
    return Measured(result, outcomes)


def _refuse_different_examples(cells: Sequence[Measured]) -> None:
    groups: dict[bytes, list[Measured]] = {}
    for one in cells:
        if one.outcomes is not None:
            groups.setdefault(one.outcomes.keys.tobytes(), []).append(one)
    if len(groups) < 2:
        return
    most = max(groups.values(), key=len)
    others = [one for own in groups.values() if own is not most for one in own]
    names = ", ".join(_name(one) for one in others[:_NAMED])
    more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
    raise FtplugError(
        f"cells were evaluated on different examples: {names}{more} on others than "
        f"{_name(most[0])}: the script must evaluate on the same data in every run, so neither a "
        "split nor masks may follow from the seed; then give --out another folder"
    )


def _name(one: Measured) -> str:
    cell = one.result.cell
    rate = "" if cell.lr is None else f", lr {cell.lr:g}"
    return f"{CELLS}/{cell.id} ({cell.candidate}{rate}, seed {cell.seed})"


def contrast(
    candidate: str,
    baseline: str,
    finished: Mapping[str, Sequence[Result]],
    outcomes: Mapping[str, Mapping[int, Measured]],
) -> verdicts.Contrast | str:
    """Return a candidate against the baseline over their common seeds, or why there is none."""
    own, base = outcomes[candidate], outcomes[baseline]
    names = {cell.metric for cell in (*finished[candidate], *finished[baseline])}
    if len(names) > 1:
        listed = " and ".join(sorted(str(name) for name in names))
        return f"its cells and the baseline's were measured by different metrics: {listed}"
    common = sorted(own.keys() & base.keys())
    if not common:
        return "no seed at which both it and the baseline finished"
    pairs = [(own[seed], base[seed]) for seed in common]
    known = [pair for pair in pairs if all(one.outcomes is not None for one in pair)]
    if not known:
        return next(one.why_not for pair in pairs for one in pair if one.outcomes is None)
    with np.errstate(over="ignore", invalid="ignore"):  # a perplexity of 1e200
        made = _paired(known)
    if not isinstance(made, str) and not np.isfinite((*made.interval, *made.interval_90)).all():
        return "its differences are too large to be averaged"
    return made


def _paired(pairs: Sequence[tuple[Measured, Measured]]) -> verdicts.Contrast | str:
    sign = 1.0 if pairs[0][1].result.greater_is_better else -1.0
    files = [(_outcomes(own), _outcomes(base)) for own, base in pairs]
    cells = [file for pair in files for file in pair]
    if all(file.outcomes is not None for file in cells):
        rows = [_minus(own.outcomes, base.outcomes) for own, base in files]
        return verdicts.of_outcomes(sign * np.stack(rows))
    lengths = {None if file.resamples is None else file.resamples.size for file in cells}
    values = [(own.result.value, base.result.value) for own, base in pairs]
    if len(lengths) > 1 or None in lengths:
        return "no per-example outcome: cells kept outcomes of different kinds"
    rows = [_minus(own.resamples, base.resamples) for own, base in files]
    by_seed = [
        row.mean() if own is None or base is None else own - base
        for row, (own, base) in zip(rows, values, strict=True)
    ]
    examples = len(cells[0].keys)
    return verdicts.of_resamples(sign * np.stack(rows), sign * np.array(by_seed), examples)


def _outcomes(one: Measured) -> Outcomes:
    assert one.outcomes is not None  # contrast() keeps such pairs alone
    return one.outcomes


def _minus(own: Floats | None, base: Floats | None) -> Floats:
    assert own is not None
    assert base is not None
    return own - base
