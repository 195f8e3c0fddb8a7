"""From values to places on a figure, and the round values that its axis names."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """A straight line from values to places.

    Attributes:
        low: The value at ``start``.
        high: The value at ``end``.
        start: In the figure's units.
        end: In the figure's units; may lie before ``start``, as it does on a vertical axis.
    """

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Where the value stands, to a hundredth of a unit."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """At most ``most`` round values (1, 2, 5 times a power of ten) from ``low`` to ``high``.

    Args:
        low: Below ``high``.
        high: Finite.
        most: At least 3.
    """
    raw = (high - low) / (most - 1)
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(count * step, 12) for count in range(first, last + 1)]


def around(values: list[float], *, share: float = 0.06) -> tuple[float, float]:
    """A range that holds all values with some air; never empty."""
    low, high = min(values), max(values)
    air = share * (high - low) or 0.5 * abs(high) or 0.5
    return low - air, high + air
