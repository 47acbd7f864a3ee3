"""The training curve as a PNG: the losses over the steps, and beside them the metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ftplug.files.pictures import own_style, png_of
from ftplug_registry.card.markdown import is_number, line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = Mapping[str, float]

_COLORS = ("#d1495b", "#2e8b57", "#8e6bbf", "#c98a1b")
_TRAIN, _EVAL, _GREY = "#3d6fb4", "#e07b39", "#7f7f7f"
_FEW = 40  # points up to which each one gets a marker
_METRICS = 4  # curves at most in one panel


def training_curve(
    history: Mapping[str, Sequence[Point]], majority: Mapping[str, float] | None = None
) -> bytes | None:
    """Return a PNG of a run's history, or None where there is nothing to draw.

    ``history`` is the manifest's: ``{"train": [{step, loss}, …], "eval": [{step, eval_…}, …]}``.
    ``majority`` holds the metrics of the commonest answer, drawn as a line. The same history gives
    the same bytes, whatever style the user has set for matplotlib.
    """
    losses = {
        "training": _series(history.get("train", ()), "loss"),
        "validation": _series(history.get("eval", ()), "eval_loss"),
    }
    metrics = _comparable(history.get("eval", ()))
    if not any(losses.values()) and not metrics:
        return None
    with own_style():
        from matplotlib.figure import Figure

        panels = bool(any(losses.values())) + bool(metrics)
        figure = Figure(figsize=(4.4 * panels, 2.9), dpi=110)
        figure.subplots_adjust(left=0.12 / panels, right=0.99, bottom=0.17, top=0.91, wspace=0.17)
        axes = iter(_panels(figure, panels))
        if any(losses.values()):
            _draw_losses(next(axes), losses)
        if metrics:
            _draw_metrics(next(axes), metrics, majority or {})
        return png_of(figure)


def _series(points: Sequence[Point], name: str) -> list[tuple[float, float]]:
    return [
        (p["step"], p[name]) for p in points if is_number(p.get("step")) and is_number(p.get(name))
    ]


def _comparable(points: Sequence[Point]) -> dict[str, list[tuple[float, float]]]:
    """Return the metrics that share the scale from 0 to 1, or else the first one alone."""
    names = dict.fromkeys(name for point in points for name in point)
    series = {
        name: _series(points, name)
        for name in names
        if name.startswith("eval_") and not name.endswith("loss")
    }
    shares = {n: s for n, s in series.items() if s and all(0 <= value <= 1 for _, value in s)}
    return dict(list(shares.items())[:_METRICS] or [item for item in series.items() if item[1]][:1])


def _draw_losses(axes: Axes, losses: Mapping[str, list[tuple[float, float]]]) -> None:
    training, validation = losses["training"], losses["validation"]
    if training:
        noisy = len(training) > _FEW
        _plot(axes, training, _TRAIN, None if noisy else "training", alpha=0.3 if noisy else 1)
        if noisy:
            _plot(axes, _smoothed(training), _TRAIN, "training, smoothed")
    if validation:
        _plot(axes, validation, _EVAL, "validation")
    _finish(axes, "Loss")


def _draw_metrics(
    axes: Axes, metrics: Mapping[str, list[tuple[float, float]]], majority: Mapping[str, float]
) -> None:
    for (name, series), color in zip(metrics.items(), _COLORS, strict=False):
        _plot(axes, series, color, name.removeprefix("eval_").replace("_", " "))
    for share in (majority[name] for name in metrics if name in majority):
        axes.axhline(share, color=_GREY, linewidth=1, linestyle="--", label="majority class")
    _finish(axes, "Validation metrics")


def _plot(
    axes: Axes, series: list[tuple[float, float]], color: str, label: str | None, alpha: float = 1
) -> None:
    steps, values = zip(*series, strict=True)
    marker = "o" if len(series) <= _FEW else None
    # A label that starts with an underscore would be left out, and $ would start a formula.
    text = None if label is None else line(label)[:30].replace("$", r"\$").lstrip("_")
    axes.plot(
        steps, values, color=color, label=text, alpha=alpha, linewidth=1.6, marker=marker,
        markersize=3.5,
    )  # fmt: skip


def _smoothed(series: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the mean over a twentieth of the points around each one."""
    reach = max(1, len(series) // 40)
    values = [value for _, value in series]
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [
        (step, sum(window) / len(window)) for (step, _), window in zip(series, windows, strict=True)
    ]


def _panels(figure: Figure, count: int) -> list[Axes]:
    return [figure.add_subplot(1, count, index + 1) for index in range(count)]


def _finish(axes: Axes, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("step", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    if axes.dataLim.width == 0:  # a single step
        axes.set_xlim(axes.dataLim.x0 - 1, axes.dataLim.x0 + 1)
    axes.tick_params(labelsize=8, length=3, color=_GREY)
    axes.grid(color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_GREY)
    axes.legend(fontsize=8, frameon=False)
