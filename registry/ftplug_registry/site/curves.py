"""The learning curve of an artifact, from the history in its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ftplug.comparing.report.texts import clean
from ftplug_registry.card.markdown import is_number
from ftplug_registry.card.metadata import section
from ftplug_registry.site.pictures import Line, Point, lines

if TYPE_CHECKING:
    from markupsafe import Markup

_LARGEST = 1e15
_METRICS = 4  # lines at most in one picture
_SAID = "A line for each, by training step. "


def curves(facts: Mapping[str, Any]) -> list[Markup]:
    """Return the picture of the losses and that of the metrics, those that can be drawn."""
    history = section(facts["training"], "history") if facts else {}
    train, evaluated = _points(history.get("train")), _points(history.get("eval"))
    losses = [
        Line("training loss", _series(train, "loss")),
        Line("validation loss", _series(evaluated, "eval_loss")),
    ]
    drawn = [
        lines("losses", "Losses by step", _SAID + _ends(losses), losses, "step"),
        _metrics(evaluated),
    ]
    return [one for one in drawn if one is not None]


def _metrics(evaluated: list[Mapping[str, Any]]) -> Markup | None:
    names = dict.fromkeys(name for point in evaluated for name in point)
    found = [
        Line(clean(name.removeprefix("eval_").replace("_", " "), 40), series)
        for name in names
        if name.startswith("eval_") and not name.endswith("loss")
        if (series := _series(evaluated, name))
    ]
    shares = [one for one in found if all(0 <= value <= 1 for _, value in one.points)]
    kept = shares[:_METRICS] or found[:1]
    return lines("metrics", "Validation metrics by step", _SAID + _ends(kept), kept, "step")


def _ends(drawn: list[Line]) -> str:
    """Say where lines begin and end, for those who do not see them."""
    said = (
        f"{one.name}: {one.points[0][1]:.4g} at step {one.points[0][0]:g}, "
        f"{one.points[-1][1]:.4g} at step {one.points[-1][0]:g}"
        for one in drawn
        if one.points
    )
    return "; ".join(said) + "."


def _points(entries: Any) -> list[Mapping[str, Any]]:
    given = entries if isinstance(entries, list) else []
    return [one for one in given if isinstance(one, Mapping)]


def _series(points: list[Mapping[str, Any]], name: str) -> list[Point]:
    pairs = ((point.get("step"), point.get(name)) for point in points)
    return [
        (float(step), float(value))
        for step, value in pairs
        if is_number(step) and is_number(value) and abs(step) < _LARGEST and abs(value) < _LARGEST
    ]
