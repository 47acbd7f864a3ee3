"""What the figures of a report share: their size, their axes, how a candidate is drawn.

Widths and sizes are in points of a page (72 an inch): a figure is as wide as a phone, so that its
text can be read there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ftplug.comparing.report.colors import LIGHT, SERIES
from ftplug.comparing.report.facts import Row
from ftplug.comparing.report.texts import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 340
DPI = 160  # of the PNGs
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
_SHAPES = "osD^vPX*"


@dataclass(frozen=True)
class Style:
    """How a candidate is drawn wherever it is: by colour, by shape, and by its letter."""

    color: str
    shape: str
    dashes: Any

    @classmethod
    def of(cls, rows: Sequence[Row]) -> dict[str, Style]:
        """Return styles by letter; the baseline is in ink, and dashed."""
        others = [row.letter for row in rows if row.judged.verdict != "baseline"]
        found = {
            name: cls(
                LIGHT[SERIES[at % len(SERIES)]],
                _SHAPES[at % len(_SHAPES)],
                _DASHES[at // len(SERIES) % len(_DASHES)],
            )
            for at, name in enumerate(others)
        }
        return {r.letter: found.get(r.letter) or cls(LIGHT["ink"], "o", (0, (4, 2))) for r in rows}


def panel(
    height: float, *, left: float, bottom: float, top: float, right: float = 14
) -> tuple[Figure, Axes]:
    """Return a figure of a height with one pair of axes, whose distances to its edges are given."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=DPI)
    place = (left / WIDTH, bottom / height, (WIDTH - left - right) / WIDTH)
    axes = figure.add_axes((*place, (height - bottom - top) / height))
    plain(axes)
    return figure, axes


def plain(axes: Axes) -> None:
    """Give axes the report's look: two lines and quiet numbers."""
    axes.figure.set_facecolor(LIGHT["surface"])
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=10.5, length=3, color=LIGHT["muted"], labelcolor=LIGHT["muted"])
    axes.tick_params(which="minor", length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(LIGHT["muted"])


def finish(axes: Axes, x: str, y: str) -> None:
    """Name both axes, the upright one above it, and draw the grid."""
    label(axes.set_xlabel, x)
    axes.text(0, 1.012, clean(y, 40), transform=axes.transAxes, fontsize=11, color=LIGHT["muted"],
              parse_math=False)  # fmt: skip
    axes.grid(color=LIGHT["grid"], linewidth=0.8)


def label(give: Callable[..., Any], text: str) -> None:
    """Name an axis: ``label(axes.set_xlabel, "epoch")``; a dollar sign is one."""
    give(text, fontsize=11, color=LIGHT["muted"], parse_math=False)


def limits(give: Callable[..., Any], values: Sequence[float], pad: float) -> None:
    """Give an axis room around its values: ``pad`` of their range."""
    low, high = min(values), max(values)
    room = pad * (high - low) or abs(high) * 0.1 or 1.0
    give(low - room, high + room)
