"""Plots of the reports; matplotlib is needed only here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_sku.errors import UserError

_OURS, _OTHERS = "#1b7837", "#9970ab"
_BAR_INCHES = 0.36
_HEAD_INCHES = 1.0


@dataclass(frozen=True)
class Dot:
    """A point with error bars; None draws no bar."""

    label: str
    across: float
    up: float
    across_error: float | None = None
    up_error: float | None = None


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


def dots(
    path: Path, *, title: str, across: str, up: str, figures: Sequence[Dot], ours: str
) -> None:
    """A labelled dot a figure; the one that is called ``ours`` stands out.

    Args:
        path: SVG file to write.
        title: Above the plot.
        across: Name of the horizontal axis.
        up: Name of the vertical axis.
        figures: What is not finite is left out.
        ours: See above.
    """
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(figsize=(8, 6), layout="constrained")
    for dot in figures:
        if not (math.isfinite(dot.across) and math.isfinite(dot.up)):
            continue
        axes.errorbar(
            dot.across,
            dot.up,
            xerr=dot.across_error,
            yerr=dot.up_error,
            fmt="o",
            capsize=3,
            color=_OURS if dot.label == ours else _OTHERS,
        )
        axes.annotate(
            dot.label,
            (dot.across, dot.up),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize="small",
        )
    axes.axhline(0, linewidth=0.5, color="grey")
    axes.margins(x=0.15)
    axes.set_title(title)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


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
