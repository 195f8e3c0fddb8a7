"""Plots can be read: no label lies on another one, and what is not finite is left out."""

from itertools import combinations
from math import inf
from pathlib import Path

from matplotlib import pyplot

from benchmarks.plots import Dot, Panel, _box, _draw, _spread, dots

CLOSE = [Dot("base", 1.0, 1.0), Dot("ours", 1.0, 1.001, 0.1, 0.1), Dot("theirs", 1.001, 1.0)]


def test_labels_of_dots_that_coincide_are_lifted_off_each_other() -> None:
    figure, axes = pyplot.subplots()
    labels = _draw(axes, Panel("cost", "gain", [*CLOSE, Dot("gone", inf, 1.0)]), "ours")
    assert [label.get_text() for label in labels] == ["base", "ours", "theirs"]
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]

    def overlapping() -> int:
        boxes = [_box(label, renderer) for label in labels]
        return sum(bool(one.overlaps(other)) for one, other in combinations(boxes, 2))

    assert overlapping() == 3
    _spread(labels, renderer)
    assert overlapping() == 0
    pyplot.close(figure)


def test_panels_stand_side_by_side_in_one_file(tmp_path: Path) -> None:
    panels = [Panel("first cost", "gain", CLOSE), Panel("second cost", "gain", CLOSE)]
    for name in ("one.svg", "again.svg"):
        dots(tmp_path / name, title="Both", panels=panels, ours="ours")
    drawn = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert drawn == (tmp_path / "again.svg").read_text(encoding="utf-8")
    assert "first cost" in drawn
    assert "second cost" in drawn
