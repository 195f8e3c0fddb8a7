"""Plots of the reports; matplotlib is needed only here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_sku.errors import UserError

_OURS, _OTHERS = "#1b7837", "#9970ab"
_BASE = "black"
_BAR_INCHES = 0.36
_HEAD_INCHES = 1.0
_LIFT_POINTS = 3


@dataclass(frozen=True)
class Dot:
    """A point with error bars; None draws no bar."""

    label: str
    across: float
    up: float
    across_error: float | None = None
    up_error: float | None = None


@dataclass(frozen=True)
class Panel:
    """Dots over two axes; a dot that is not finite is left out."""

    across: str
    up: str
    figures: Sequence[Dot]


def require_matplotlib() -> None:
    """Told before hours of measuring, not after.

    Raises:
        UserError: if matplotlib is not installed.
    """
    _pyplot()


def bars(
    path: Path, *, title: str, unit: str, figures: Sequence[tuple[str, float]], ours: str
) -> None:
    """A bar a figure; those whose label begins with ``ours`` stand out.

    Args:
        path: SVG file to write.
        title: Above the plot.
        unit: Below it.
        figures: Label and value, from top to bottom.
        ours: See above.
    """
    pyplot = _pyplot()
    height = _HEAD_INCHES + _BAR_INCHES * len(figures)
    figure, axes = pyplot.subplots(figsize=(8, height), layout="constrained")
    labels = [label for label, _ in figures]
    places = range(len(figures))
    colours = [_OURS if label.startswith(ours) else _OTHERS for label in labels]
    drawn = axes.barh(places, [value for _, value in figures], color=colours)
    axes.bar_label(drawn, fmt="%.2f", padding=3)
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_title(title)
    axes.set_xlabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def dots(path: Path, *, title: str, panels: Sequence[Panel], ours: str) -> None:
    """Panels side by side; the dots that are called ``ours`` and base stand out.

    Args:
        path: SVG file to write.
        title: Above the plot.
        panels: From left to right.
        ours: See above.
    """
    pyplot = _pyplot()
    size = (7 * len(panels), 6)
    figure, _ = pyplot.subplots(ncols=len(panels), figsize=size, layout="constrained")
    figure.suptitle(title)
    labels = [_draw(axes, panel, ours) for axes, panel in zip(figure.axes, panels, strict=True)]
    figure.canvas.draw()  # only now it is known where what stands
    for of_panel in labels:
        _spread(of_panel, figure.canvas.get_renderer())
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def _draw(axes: Any, panel: Panel, ours: str) -> list[Any]:
    """The panel's dots; their labels."""
    labels = []
    for dot in panel.figures:
        if not (math.isfinite(dot.across) and math.isfinite(dot.up)):
            continue
        axes.errorbar(
            dot.across,
            dot.up,
            xerr=dot.across_error,
            yerr=dot.up_error,
            fmt="o",
            capsize=3,
            color={ours: _OURS, "base": _BASE}.get(dot.label, _OTHERS),
        )
        labels.append(
            axes.annotate(
                dot.label,
                (dot.across, dot.up),
                xytext=(8, 4),
                textcoords="offset points",
                fontsize="small",
                arrowprops={"arrowstyle": "-", "linewidth": 0.4, "color": "grey"},
            )
        )
    axes.margins(x=0.2, y=0.1)
    axes.set_xlabel(panel.across)
    axes.set_ylabel(panel.up)
    axes.spines[["top", "right"]].set_visible(False)
    return labels


def _spread(labels: Sequence[Any], renderer: Any) -> None:
    """Lift labels, from the lowest one on, until none lies on another."""
    placed: list[Any] = []
    for label in sorted(labels, key=lambda label: _box(label, renderer).y0):
        while any(_box(label, renderer).overlaps(other) for other in placed):
            across, up = label.xyann
            label.xyann = (across, up + _LIFT_POINTS)
        placed.append(_box(label, renderer))


def _box(label: Any, renderer: Any) -> Any:
    """Of the text alone, without the line to its dot."""
    from matplotlib.text import Text

    label.update_positions(renderer)
    return Text.get_window_extent(label, renderer)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise UserError(
            "the reports' plots need matplotlib, which is not installed",
            remedy="Install it: pip install 'lora-sku[bench]'.",
        ) from error
    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "lora-sku"  # the same plot is the same file
    from matplotlib import pyplot

    return pyplot
