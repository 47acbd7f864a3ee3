"""Quality against what it costs: time, memory, size, and what none beats in both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ftplug.comparing.report.answer import metric_name
from ftplug.comparing.report.colors import LIGHT
from ftplug.comparing.report.drawing import DPI, WIDTH, Style, finish, limits, panel, plain
from ftplug.comparing.report.facts import Row
from ftplug.comparing.report.placing import Box, placed
from ftplug.comparing.report.texts import clean
from ftplug.comparing.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cost:
    """A cost that quality is drawn against, and its units: how many seconds or bytes one has."""

    key: str
    title: str
    of: Callable[[Row], float | None]
    units: Mapping[str, float]

    def unit(self, largest: float) -> tuple[str, float]:
        """Return the largest unit of which a value has two or more."""
        fitting = [(name, one) for name, one in self.units.items() if 2 * one <= largest]
        return fitting[-1] if fitting else next(iter(self.units.items()))


_SECONDS = {"s": 1, "min": 60, "h": 3600}
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def costs(on_gpu: bool) -> tuple[Cost, ...]:
    """Return the costs of a comparison: time, memory and size."""
    memory = "peak GPU memory" if on_gpu else "peak memory of the process"
    return (
        Cost("time", "training time", lambda row: row.seconds, _SECONDS),
        Cost("memory", memory, lambda row: row.memory, _BYTES),
        Cost("size", "size of the artifact", lambda row: row.artifact, _BYTES),
    )


def tradeoff(rows: Sequence[Row], cost: Cost, summary: Summary) -> Figure | None:
    """Draw quality against one cost, or nothing where fewer than two candidates have both."""
    if len(_points(rows, cost)) < 2:
        return None
    figure, axes = panel(290, left=46, bottom=44, top=12, right=14)
    _draw_tradeoff(axes, rows, cost, summary)
    return figure


def tradeoffs(rows: Sequence[Row], found: Sequence[Cost], summary: Summary) -> Figure | None:
    """Draw quality against each cost side by side, with the candidates' names below."""
    drawn = [cost for cost in found if len(_points(rows, cost)) >= 2]
    if not drawn:
        return None
    from matplotlib.figure import Figure

    names = [f"{row.letter}  {clean(row.name, 36)}" for row in rows]
    below = 16 * math.ceil(len(names) / len(drawn)) + 12
    width, height = WIDTH * len(drawn), 290 + below
    figure = Figure(figsize=(width / 72, height / 72), dpi=DPI)
    for at, cost in enumerate(drawn):
        left, low = (WIDTH * at + 46) / width, (below + 44) / height
        axes = figure.add_axes((left, low, (WIDTH - 60) / width, 234 / height))
        plain(axes)
        _draw_tradeoff(axes, rows, cost, summary)
    for at, name in enumerate(names):
        column, line = at % len(drawn), at // len(drawn)
        x, y = (WIDTH * column + 46) / width, (below - 10 - 16 * line) / height
        figure.text(x, y, name, fontsize=11, va="center", parse_math=False, color=LIGHT["ink"])
    return figure


def front(points: Sequence[tuple[str, float, float]], greater: bool) -> list[str]:
    """Return the letters of (letter, cost, quality) that none beats in both, cheapest first."""
    kept: list[str] = []
    best = -math.inf
    for name, _, quality in sorted(points, key=lambda p: (p[1], -p[2] if greater else p[2])):
        worth = quality if greater else -quality
        if worth > best:
            kept.append(name)
            best = worth
    return kept


def _points(rows: Sequence[Row], cost: Cost) -> list[tuple[str, float, float]]:
    found = [(row.letter, cost.of(row), row.judged.mean) for row in rows]
    return [(n, x, y) for n, x, y in found if x is not None and y is not None and math.isfinite(y)]


def _draw_tradeoff(axes: Axes, rows: Sequence[Row], cost: Cost, summary: Summary) -> None:
    styles, points = Style.of(rows), _points(rows, cost)
    unit, one = cost.unit(max(x for _, x, _ in points))
    points = [(name, x / one, y) for name, x, y in points]
    _scale(axes, [x for _, x, _ in points])
    limits(axes.set_ylim, [y for _, _, y in points], 0.12)
    best = front(points, summary.greater_is_better)
    where = {name: (x, y) for name, x, y in points}
    axes.plot(*zip(*(where[name] for name in best), strict=True), color=LIGHT["muted"],
              linewidth=1.3, drawstyle="steps-post", zorder=1)  # fmt: skip
    for name, x, y in points:
        style = styles[name]
        axes.plot([x], [y], style.shape, color=style.color, markersize=8, markeredgewidth=1.7,
                  markerfacecolor=style.color if name in best else LIGHT["surface"])  # fmt: skip
    _name_points(axes, where, styles, up=1 if summary.greater_is_better else -1)
    aside = "" if summary.greater_is_better else ", less is better"
    finish(axes, f"{cost.title} ({unit})", f"{metric_name(summary)}{aside}")


def _scale(axes: Axes, costs: Sequence[float]) -> None:
    """Give costs of very different size a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    if min(costs) > 0 and max(costs) > 20 * min(costs):
        axes.set_xscale("log")
        low, high = math.log(min(costs)), math.log(max(costs))
        pad = 0.09 * (high - low)
        axes.set_xlim(math.exp(low - pad), math.exp(high + pad))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        limits(axes.set_xlim, costs, 0.09)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def _name_points(
    axes: Axes, where: dict[str, tuple[float, float]], styles: dict[str, Style], *, up: int
) -> None:
    """Write each letter beside its point, where nothing else is."""
    scale = 72 / axes.figure.dpi
    dots = {n: tuple(scale * v for v in axes.transData.transform(p)) for n, p in where.items()}
    taken = [Box.around(x, y, 10, 10) for x, y in dots.values()]
    for name, (x, y) in dots.items():
        dx, dy = placed((x, y), (9 * len(name), 11), taken, up=up)
        axes.annotate(
            name, where[name], (dx, dy), textcoords="offset points", ha="center", va="center",
            fontsize=11, fontweight="bold", color=styles[name].color,
        )  # fmt: skip
