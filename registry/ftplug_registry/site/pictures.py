"""Small pictures as SVG: a curve, differences with intervals, quality against size.

They are drawn by these few lines because a site has hundreds: matplotlib takes a second for some
ten of them. Colours are classes of the style sheet, so that they change with light and dark; no
element has a style of its own, which the page's policy would refuse. Sizes are in the pixels of a
phone, 340 wide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftplug.comparing.report.colors import SERIES, VERDICTS

if TYPE_CHECKING:
    from markupsafe import Markup

    from ftplug.comparing.report.published import Published

Point = tuple[float, float]
_WIDE, _HIGH = 340, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 12, 40
_MOST = 150  # points of a line: a screen shows no more
_FEW = 40  # up to which each has a mark
_LARGEST = 1e15
_NUMBERED = 40  # points that have their numbers beside them


@dataclass(frozen=True)
class Line:
    """One line of a picture."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Axis:
    """Where values lie in a picture: ``low`` at the pixel ``start``, ``high`` at ``end``."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, room: float = 0.06) -> Axis:
        """Return an axis on which all values have room."""
        low, high = min(values), max(values)
        more = (high - low) * room or max(abs(high) * room, 1e-9)
        return cls(low - more, high + more, start, end)

    def at(self, value: float) -> str:
        """Return the pixel of a value."""
        share = (value - self.low) / (self.high - self.low)
        return f"{self.start + share * (self.end - self.start):.1f}"

    def ticks(self) -> list[float]:
        """Return three to six round values within the axis."""
        step = 10 ** math.floor(math.log10((self.high - self.low) / 2))
        for times in (1, 2, 5, 10):
            first = math.ceil(self.low / (step * times)) * step * times
            count = int((self.high - first) / (step * times)) + 1
            if count <= 5:
                break
        return [first + at * step * times for at in range(count)]


def finite(points: Sequence[Point]) -> list[Point]:
    """Return the points that can be drawn."""
    return [p for p in points if all(abs(value) < _LARGEST for value in p)]  # nor NaN


def lines(key: str, title: str, said: str, drawn: Sequence[Line], x_name: str) -> Markup | None:
    """Return a picture of lines over the same axis, or None where there is no point."""
    kept = [Line(one.name, finite(one.points)) for one in drawn]
    kept = [one for one in kept if one.points][: len(SERIES)]
    if not kept:
        return None
    bottom = _HIGH + 18 * len(kept)
    points = [point for one in kept for point in one.points]
    x = Axis.around([p[0] for p in points], _LEFT, _WIDE - _RIGHT, 0.02)
    y = Axis.around([p[1] for p in points], _HIGH - _BOTTOM, _TOP)
    parts = [*_frame(x, y, x_name, f"{{:{_digits(y)}}}".format)]
    for at, one in enumerate(kept):
        parts += _line(one, x, y, SERIES[at])
        height = _HIGH + 12 + 18 * at
        parts.append(f'<circle class="f-{SERIES[at]}" cx="{_LEFT}" cy="{height - 4}" r="4"/>')
        parts.append(_text(_LEFT + 12, height, one.name))
    return _svg(key, title, said, bottom, parts)


def scatter(key: str, title: str, said: str, points: Sequence[Point]) -> Markup | None:
    """Return a picture of numbered points: bytes, on a logarithmic axis, and quality."""
    kept = [(at, (math.log10(max(1.0, x)), y)) for at, (x, y) in enumerate(points, start=1)]
    kept = [(at, point) for at, point in kept if finite([point])]
    if not kept:
        return None
    x = Axis.around([p[0] for _, p in kept], _LEFT, _WIDE - _RIGHT, 0.1)
    y = Axis.around([p[1] for _, p in kept], _HIGH - _BOTTOM, _TOP, 0.1)
    parts = [*_frame(x, y, "size of the files", f"{{:{_digits(y)}}}".format, _bytes)]
    for at, (size, quality) in kept:
        parts.append(f'<circle class="f-c0" cx="{x.at(size)}" cy="{y.at(quality)}" r="4"/>')
        if len(kept) <= _NUMBERED:
            place = float(x.at(size)) + 6, float(y.at(quality)) - 5
            parts.append(_text(*place, str(at)))
    return _svg(key, title, said, _HIGH, parts)


def differences(key: str, published: Published) -> Markup | None:
    """Return a comparison's differences to its baseline with their 95 % intervals."""
    drawn = [
        (at, one)
        for at, one in enumerate(published.candidates, start=1)
        if one.difference is not None and one.verdict in VERDICTS
    ]
    if not drawn:
        return None
    delta = abs(published.delta)
    ends = [end for _, one in drawn for end in (one.difference or 0.0, *(one.interval or ()))]
    bottom = 30 * len(drawn) + 40
    x = Axis.around([0.0, delta, -delta, *ends], 34, _WIDE - _RIGHT)
    left, right = x.at(-delta), x.at(delta)
    width = f"{float(right) - float(left):.1f}"
    parts = [
        f'<rect class="f-band" x="{left}" y="6" width="{width}" height="{bottom - 40}"/>',
        f'<path class="s-ink" d="M{x.at(0.0)} 6V{bottom - 34}"/>',
    ]
    for place, (at, one) in enumerate(drawn):
        parts += _interval(x, 24 + 30 * place, at, one.difference or 0.0, one.interval, one.verdict)
    for value in x.ticks():
        parts.append(_text(float(x.at(value)), bottom - 18, f"{value:+.3g}", "middle"))
    parts.append(_text(_WIDE / 2, bottom - 3, "worse ← difference → better", "middle"))
    said = "A line a candidate, by its number: the 95 % interval, with a mark at the mean."
    title = f"Differences to {published.baseline}"
    return _svg(key, title, f"{said} The table has the same numbers.", bottom, parts)


def _interval(
    x: Axis, y: float, number: int, mean: float, ends: tuple[float, float] | None, verdict: str
) -> Iterator[str]:
    color = VERDICTS[verdict]
    yield _text(4, y + 4, str(number))
    if ends:
        yield f'<path class="s-{color} thick" d="M{x.at(ends[0])} {y}H{x.at(ends[1])}"/>'
    yield f'<circle class="f-{color}" cx="{x.at(mean)}" cy="{y}" r="5"/>'


def _line(one: Line, x: Axis, y: Axis, color: str) -> Iterator[str]:
    stride = math.ceil(len(one.points) / _MOST)
    points = [*one.points[:: max(1, stride)], one.points[-1]]
    path = "L".join(f"{x.at(a)} {y.at(b)}" for a, b in points)
    yield f'<path class="s-{color}" d="M{path}"/>'
    for a, b in one.points if len(one.points) <= _FEW else ():
        yield f'<circle class="f-{color}" cx="{x.at(a)}" cy="{y.at(b)}" r="2.5"/>'


def _frame(
    x: Axis, y: Axis, x_name: str, y_form: Callable[[float], str],
    x_form: Callable[[float], str] = "{:g}".format,
) -> Iterator[str]:  # fmt: skip
    """Yield the grid, its numbers and the name of the horizontal axis."""
    for value in y.ticks():
        yield f'<path class="s-grid" d="M{_LEFT} {y.at(value)}H{_WIDE - _RIGHT}"/>'
        yield _text(_LEFT - 6, float(y.at(value)) + 4, y_form(value), "end")
    for value in x.ticks():
        shown = x_form(value)
        if shown:
            yield _text(float(x.at(value)), _HIGH - _BOTTOM + 16, shown, "middle")
    yield _text((_LEFT + _WIDE - _RIGHT) / 2, _HIGH - 6, x_name, "middle")


def _digits(axis: Axis) -> str:
    """Return the format in which the ticks of an axis differ."""
    step = (axis.high - axis.low) / 5
    places = max(0, -math.floor(math.log10(step)))
    return ".3g" if abs(axis.high) >= 1e4 or places > 4 else f".{places}f"


def _bytes(power: float) -> str:
    """Return a power of ten as a size; of others than whole ones nothing."""
    for unit, exponent in (("GB", 9), ("MB", 6), ("kB", 3), ("B", 0)):
        if power >= exponent:
            return f"{10 ** (power - exponent):.3g} {unit}"
    return ""


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    from markupsafe import escape

    where = f'x="{x:.1f}" y="{y:.1f}"'
    return f'<text class="f-muted" {where} text-anchor="{anchor}">{escape(text)}</text>'


def _svg(key: str, title: str, said: str, high: float, parts: Sequence[str]) -> Markup:
    from markupsafe import Markup, escape

    named = f'<title id="{key}-title">{escape(title)}</title>'
    named += f'<desc id="{key}-desc">{escape(said)}</desc>'
    return Markup(
        f'<svg viewBox="0 0 {_WIDE} {high:g}" role="img" '
        f'aria-labelledby="{key}-title {key}-desc" fill="none">{named}{"".join(parts)}</svg>'
    )
