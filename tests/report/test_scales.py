"""Axes."""

import pytest

from lora_sku.report.scales import Scale, around, ticks


def test_a_value_has_its_place_also_where_the_axis_points_up() -> None:
    assert Scale(0, 10, 50, 150).place(2.5) == 75
    assert Scale(0, 10, 150, 50).place(2.5) == 125


@pytest.mark.parametrize(
    ("low", "high", "most", "named"),
    [
        (0, 10, 6, [0, 2, 4, 6, 8, 10]),
        (0.996, 1.0654, 6, [1.0, 1.02, 1.04, 1.06]),
        (-1, 1, 5, [-1, -0.5, 0, 0.5, 1]),
        (3, 97, 3, [50]),
        (0, 1e-9, 6, [0, 2e-10, 4e-10, 6e-10, 8e-10, 1e-9]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, most: int, named: list[float]) -> None:
    assert ticks(low, high, most) == pytest.approx(named)


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-2.0], [1.0, 2.0]])
def test_a_range_is_never_empty(values: list[float]) -> None:
    low, high = around(values)
    assert low < min(values)
    assert high > max(values)
