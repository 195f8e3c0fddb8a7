"""SVG: values in, well-formed text out."""

import math
import xml.etree.ElementTree as ET

from lora_sku.report.charts import (
    COLOURS,
    Frame,
    Series,
    bar,
    legend_key,
    line_chart,
    share_with_interval,
)

FRAME = Frame("Title", "What it shows.", "across", "up")


def points_of(svg: str) -> list[list[tuple[float, float]]]:
    lines = list(ET.fromstring(svg).iter("polyline"))
    return [
        [(float(x), float(y)) for x, y in (p.split(",") for p in line.attrib["points"].split())]
        for line in lines
    ]


def test_a_line_rises_to_the_right_inside_the_figure() -> None:
    (line,) = points_of(line_chart([Series("a", ((0, 0), (1, 5), (2, 10)))], FRAME))
    (x0, y0), (x1, y1), (x2, y2) = line
    assert 0 < x0 < x1 < x2 < FRAME.width
    assert FRAME.height > y0 > y1 > y2 > 0
    assert x1 - x0 == x2 - x1


def test_what_is_not_finite_or_beyond_the_limit_is_left_out() -> None:
    points = ((0.0, 1.0), (1.0, math.nan), (math.inf, 1.0), (2.0, 2.0), (99.0, 3.0))
    svg = line_chart([Series("a", points)], Frame("T", "D.", "x", "y", x_limit=10))
    assert [len(line) for line in points_of(svg)] == [2]
    assert "nan" not in svg


def test_one_point_is_a_dot_and_marks_are_rings() -> None:
    root = ET.fromstring(
        line_chart([Series("a", ((1, 1),))], Frame("T", "D.", "x", "y", marks=((1, 1),)))
    )
    assert [each.attrib["class"] for each in root.iter("path")] == ["dot c0"]
    assert [each.attrib["class"] for each in root.iter("circle")] == ["mark"]


def test_the_budget_stands_where_its_value_is() -> None:
    frame = Frame("T", "D.", "x", "y", budget=2.0)
    root = ET.fromstring(line_chart([Series("a", ((1, 1), (2, 2), (3, 3)))], frame))
    (line,) = [each for each in root.iter("line") if each.attrib["class"] == "budget"]
    (places,) = points_of(ET.tostring(root, encoding="unicode"))
    assert float(line.attrib["x1"]) == places[1][0]


def test_labels_are_escaped_and_the_figure_has_a_name() -> None:
    nasty = "\"><script>alert('x')</script>\x00"
    svg = line_chart([Series("a", ((0, 0), (1, 1)))], Frame(nasty, nasty, nasty, nasty))
    root = ET.fromstring(svg)
    assert not list(root.iter("script"))
    assert root.attrib["role"] == "img"
    assert "<script>" in root.attrib["aria-label"]  # as text
    assert "<script>" in "".join(root.itertext())


def test_a_bar_is_as_wide_as_its_share() -> None:
    widths = [each.attrib["width"] for each in ET.fromstring(bar(1.5, 3.0, 0)).iter("rect")]
    assert widths == ["100%", "50.0%"]
    assert 'width="0%"' in bar(0.0, 0.0, 0)


def test_an_interval_spans_its_ends() -> None:
    (band,) = ET.fromstring(share_with_interval(0.5, 0.25, 0.75, 1)).iter("rect")
    assert (band.attrib["x"], band.attrib["width"]) == ("25.0%", "50.0%")


def test_neighbouring_series_differ_in_shape_too() -> None:
    shapes = [ET.fromstring(legend_key(n)).find("path").attrib["d"] for n in range(COLOURS)]  # type: ignore[union-attr]
    assert len(set(shapes[:4])) == 4
