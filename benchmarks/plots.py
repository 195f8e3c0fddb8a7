"""Plots of the reports; matplotlib is needed only here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lora_sku.errors import UserError

_OURS, _OTHERS = "#1b7837", "#9970ab"
_BAR_INCHES = 0.36
_HEAD_INCHES = 1.0


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
