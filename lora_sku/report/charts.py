"""Figures as SVG: values in, text out. Colours and type are the style sheet's business.

Series are told apart by colour, by the shape of their points and by a legend in words.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from lora_sku.report.scales import Scale, around, ticks
from lora_sku.report.text import number, visible

Point = tuple[float, float]
COLOURS = 6
"""How many the style sheet has: classes c0, c1, ..."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 74.0, 14.0, 14.0, 54.0


@dataclass(frozen=True, slots=True)
class Series:
    """A line, or points alone.

    Attributes:
        name: For the legend.
        points: In the order in which they are joined; those that are not finite are left out.
        colour: 0 .. COLOURS - 1.
        line: Join the points.
        dots: Show the points.
        faint: In the background, as raw values behind their mean.
    """

    name: str
    points: tuple[Point, ...]
    colour: int = 0
    line: bool = True
    dots: bool = False
    faint: bool = False


@dataclass(frozen=True, slots=True)
class Frame:
    """The paper under a figure.

    Attributes:
        title: What the figure is, for those who cannot see it.
        description: What it shows, in a sentence.
        x_label: With the unit.
        y_label: With the unit.
        width: In units of the figure; text is 13 high.
        height: The same.
        budget: An x that may not be passed, if there is one.
        marks: Points that are ringed.
        x_limit: Points further right are left out.
    """

    title: str
    description: str
    x_label: str
    y_label: str
    width: float = 520
    height: float = 330
    budget: float | None = None
    marks: tuple[Point, ...] = ()
    x_limit: float = math.inf


def line_chart(series: Sequence[Series], frame: Frame) -> Markup:
    """Lines and points on one pair of axes.

    Args:
        series: At least one finite point among them.
        frame: Everything around them.
    """
    kept = [(each, _shown(each.points, frame.x_limit)) for each in series]
    xs = [x for _, points in kept for x, _ in points]
    ys = [y for _, points in kept for _, y in points]
    across = around([*xs, *([] if frame.budget is None else [frame.budget])])
    up = around(ys, share=0.1)
    x_scale = Scale(*across, _LEFT, frame.width - _RIGHT)
    y_scale = Scale(*up, frame.height - _BOTTOM, _TOP)
    inside = [*_axes(x_scale, y_scale, frame)]
    if frame.budget is not None:
        inside.append(_budget_line(x_scale.place(frame.budget), frame))
    for each, points in kept:
        inside += _series(each, [(x_scale.place(x), y_scale.place(y)) for x, y in points])
    for x, y in _shown(frame.marks, frame.x_limit):
        at = x_scale.place(x), y_scale.place(y)
        inside.append(Markup('<circle class="mark" cx="{}" cy="{}" r="9"/>').format(*at))
    return _svg(inside, frame)


def bar(value: float, most: float, colour: int) -> Markup:
    """A horizontal bar as wide as its cell when ``value`` is ``most``; its number stands beside."""
    width = round(100 * value / most, 2) if most else 0
    return Markup(
        '<svg class="bar" height="10" width="100%" aria-hidden="true" focusable="false">'
        '<rect class="track" width="100%" height="10" rx="2"/>'
        '<rect class="fill c{}" width="{}%" height="10" rx="2"/></svg>'
    ).format(colour, width)


def share_with_interval(share: float, low: float, high: float, colour: int) -> Markup:
    """A share of 1 as a dot on a line from 0 to 100 %, its interval as a band behind it."""
    return Markup(
        '<svg class="share" height="12" width="100%" aria-hidden="true" focusable="false">'
        '<line class="grid" x1="0" x2="100%" y1="6" y2="6"/>'
        '<rect class="band c{colour}" x="{low}%" y="2" width="{width}%" height="8" rx="4"/>'
        '<circle class="dot c{colour}" cx="{at}%" cy="6" r="4"/></svg>'
    ).format(
        colour=colour,
        low=round(100 * low, 2),
        width=round(100 * (high - low), 2),
        # The dot stays whole at both ends.
        at=round(1.5 + 97 * share, 2),
    )


def _shown(points: Sequence[Point], x_limit: float) -> list[Point]:
    return [p for p in points if all(map(math.isfinite, p)) and p[0] <= x_limit]


def _svg(inside: Sequence[Markup], frame: Frame) -> Markup:
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
    ).format(
        _plain(frame.width),
        _plain(frame.height),
        visible(f"{frame.title}. {frame.description}"),
        Markup("").join(inside),
    )


def _axes(x_scale: Scale, y_scale: Scale, frame: Frame) -> Iterator[Markup]:
    left, right, bottom = _LEFT, frame.width - _RIGHT, frame.height - _BOTTOM
    xs = ticks(x_scale.low, x_scale.high, 6)
    ys = ticks(y_scale.low, y_scale.high, 5)
    for value in ys:
        y = y_scale.place(value)
        yield Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            left, right, y, y
        )
        yield _text(left - 8, y + 4, _tick(value, ys), "end")
    yield Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
        left, right, bottom, bottom
    )
    for value in xs:
        yield _text(x_scale.place(value), bottom + 19, _tick(value, xs), "middle")
    yield _text((left + right) / 2, frame.height - 10, frame.x_label, "middle", "label")
    middle = (_TOP + bottom) / 2
    yield Markup(
        '<text class="label" transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}'
        "</text>"
    ).format(middle, visible(frame.y_label))


def _series(each: Series, places: Sequence[Point]) -> Iterator[Markup]:
    faint = " faint" if each.faint else ""
    if each.line and len(places) > 1:
        path = " ".join(f"{x},{y}" for x, y in places)
        yield Markup('<polyline class="line c{}{}" points="{}"/>').format(each.colour, faint, path)
    if each.dots or len(places) == 1:
        for x, y in places:
            yield _dot(x, y, each.colour)


def _dot(x: float, y: float, colour: int) -> Markup:
    """Round, square, diamond or triangle, so that colour is not all that tells series apart."""
    shapes = (
        f"M{x - 4:.2f},{y:.2f}a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",
        f"M{x - 3.5:.2f},{y - 3.5:.2f}h7v7h-7z",
        f"M{x:.2f},{y - 5:.2f}l5,5l-5,5l-5,-5z",
        f"M{x:.2f},{y - 5:.2f}l4.6,8.5h-9.2z",
    )
    return Markup('<path class="dot c{}" d="{}"/>').format(colour, shapes[colour % len(shapes)])


def legend_key(colour: int) -> Markup:
    """The sign of a series, for a legend in words."""
    return Markup(
        '<svg class="key" width="26" height="12" aria-hidden="true" focusable="false">'
        '<line class="line c{}" x1="1" x2="25" y1="6" y2="6"/>{}</svg>'
    ).format(colour, _dot(13, 6, colour))


def _budget_line(x: float, frame: Frame) -> Markup:
    return Markup('<line class="budget" x1="{}" x2="{}" y1="{}" y2="{}"/>{}').format(
        x,
        x,
        _TOP,
        frame.height - _BOTTOM,
        _text(x + 6, frame.height - _BOTTOM - 8, "budget", "start", "label"),
    )


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, round(x, 2), round(y, 2), anchor, escape(visible(text))
    )


def _tick(value: float, among: Sequence[float]) -> str:
    """With as many decimals as the distance of the ticks needs."""
    step = among[1] - among[0] if len(among) > 1 else abs(value) or 1.0
    return number(value, max(0, -math.floor(math.log10(step) + 1e-9)))


def _plain(value: float) -> str:
    return f"{value:g}"
