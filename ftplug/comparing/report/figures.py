"""Two figures of a report: differences with their intervals, and the metric by epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ftplug.comparing.report.colors import LIGHT, VERDICTS
from ftplug.comparing.report.drawing import Style, finish, label, limits, panel
from ftplug.comparing.report.facts import Row, letter
from ftplug.comparing.report.placing import spread
from ftplug.comparing.report.texts import WORDS, clean
from ftplug.comparing.summary import Judged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HIGH = 218  # points of the curves' axes
_PAPER = {"facecolor": LIGHT["surface"], "edgecolor": "none", "pad": 1.5}
_MARKS = {"better": "^", "worse": "v", "equivalent": "s", "not_decided": "o"}


def difference(candidates: Sequence[Judged], baseline: str, delta: float) -> Figure | None:
    """Draw each candidate's difference to the baseline with its 95 % interval, or nothing."""
    drawn = [
        (letter(at), one)
        for at, one in enumerate(candidates)
        if one.verdict in _MARKS and one.difference is not None and math.isfinite(one.difference)
    ]
    if not drawn:
        return None
    figure, axes = panel(40 * len(drawn) + 64, left=14, bottom=46, top=8)
    ends = [end for _, one in drawn for end in (one.difference, *(one.interval or ()))]
    limits(axes.set_xlim, [0, -delta, delta, *(e for e in ends if e is not None)], 0.06)
    axes.set_ylim(len(drawn) - 0.45, -0.6)
    axes.axvspan(-delta, delta, color=LIGHT["band"], linewidth=0, zorder=0)
    axes.axvline(0, color=LIGHT["ink"], linewidth=1.2, zorder=1)
    for at, (name, one) in enumerate(drawn):
        _draw_difference(axes, at, name, one)
    axes.set_yticks([])
    axes.grid(axis="x", color=LIGHT["grid"], linewidth=0.8)
    axes.spines["left"].set_visible(False)
    against = clean(baseline, 26)
    label(axes.set_xlabel, f"worse ←  difference to {against}  → better")
    return figure


def _draw_difference(axes: Axes, at: int, name: str, one: Judged) -> None:
    color = LIGHT[VERDICTS[one.verdict]]
    across = axes.get_yaxis_transform()
    say: dict[str, Any] = {"transform": across, "fontsize": 11.5, "va": "center"}
    say |= {"parse_math": False, "bbox": _PAPER}
    axes.text(0.0, at - 0.3, f"{name}  {clean(one.candidate, 30)}", color=LIGHT["ink"], **say)
    word = WORDS[one.verdict]
    axes.text(1.0, at - 0.3, word, color=color, ha="right", fontweight="bold", **say)
    y = at + 0.06
    if one.interval:
        axes.plot(one.interval, [y, y], color=color, linewidth=2.6, solid_capstyle="butt")
    hollow = one.verdict == "not_decided"
    axes.plot(
        [one.difference or 0.0], [y], _MARKS[one.verdict], color=color, markersize=7.5,
        markeredgewidth=1.6, markerfacecolor=LIGHT["surface"] if hollow else color,
    )  # fmt: skip


def epochs(rows: Sequence[Row], metric: str) -> Figure | None:
    """Draw the metric on the evaluation set by epoch, means over seeds, or nothing."""
    drawn = [row for row in rows if row.curve]
    if not drawn:
        return None
    styles, space = Style.of(rows), 16 * len(drawn) + 50
    figure, axes = panel(_HIGH + 12 + space, left=46, bottom=space, top=12, right=26)
    for row in drawn:
        style = styles[row.letter]
        x, y = zip(*row.curve, strict=True)
        axes.plot(
            x, y, color=style.color, linestyle=style.dashes, marker=style.shape, markersize=4.5,
            linewidth=1.8, label=f"{row.letter}  {clean(row.name, 38)}",
        )  # fmt: skip
    axes.margins(0.03, 0.08)
    axes.autoscale_view()
    _name_ends(axes, drawn, styles)
    finish(axes, "epoch", metric)
    _whole_epochs(axes, drawn)
    _legend(axes)
    return figure


def _name_ends(axes: Axes, drawn: Sequence[Row], styles: Mapping[str, Style]) -> None:
    """Write each letter behind its curve, apart from the others."""
    ends = [row.curve[-1] for row in drawn]
    low, high = axes.get_ylim()
    heights = spread([y for _, y in ends], 12 * (high - low) / _HIGH, low, high)
    for row, (x, _), height in zip(drawn, ends, heights, strict=True):
        axes.annotate(
            row.letter, (x, height), (7, 0), textcoords="offset points", va="center",
            fontsize=11, fontweight="bold", color=styles[row.letter].color,
        )  # fmt: skip


def _legend(axes: Axes) -> None:
    legend = axes.legend(
        loc="upper left", bbox_to_anchor=(-0.14, -38 / _HIGH), frameon=False, fontsize=11,
        borderpad=0, handlelength=2.6, labelspacing=0.35, labelcolor=LIGHT["ink"],
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _whole_epochs(axes: Axes, drawn: Sequence[Row]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if axes.dataLim.width == 0:  # a single epoch
        axes.set_xlim(axes.dataLim.x0 - 1, axes.dataLim.x0 + 1)
