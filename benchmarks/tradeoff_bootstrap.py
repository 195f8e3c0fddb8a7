"""How sure a fall of compliance is, and how many times another's: a bootstrap over prompts.

All seeds and all methods answer the same prompts, so a draw of prompts is the same for all of them
(paired). Seeds are not drawn: with three there is little to draw from.

Source: Efron 1979, 'Bootstrap Methods: Another Look at the Jackknife', Annals of Statistics 7(1).
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from benchmarks.tradeoff_figures import MethodFigures, ratio

DRAWS = 4000
_SEED = 0

Fall = Sequence[float]
"""By prompt: how much less often it is complied with than by theta_o, mean over seeds."""


@dataclass(frozen=True)
class Interval:
    """A figure with the interval that holds 95 % of its draws."""

    value: float
    low: float
    high: float


def fall_by_prompt(of: MethodFigures) -> Fall | None:
    """None where a unit does not say which prompts were complied with."""
    base = of.base.harmful.by_prompt
    told = [unit.scores.harmful.by_prompt for unit in of.units if unit.scores is not None]
    if not base or not all(told):
        return None
    return [before - fmean(after) for before, *after in zip(base, *told, strict=True)]


def mean_fall(fall: Fall) -> Interval:
    """Of all prompts."""
    return _interval(fmean(fall), [fmean(fall[i] for i in drawn) for drawn in _draws(len(fall))])


def times_best(ours: Fall, rivals: Mapping[str, Fall]) -> tuple[Interval, float]:
    """Our mean fall over the best rival's, the best of each draw; and the share of draws >= 2."""

    def times(of: Sequence[int]) -> float:
        best = max(fmean(fall[i] for i in of) for fall in rivals.values())
        return ratio(fmean(ours[i] for i in of), best)

    drawn = [times(places) for places in _draws(len(ours))]
    share = fmean(value >= 2 for value in drawn)
    return _interval(times(range(len(ours))), drawn), share


def _draws(count: int) -> list[list[int]]:
    rng = random.Random(_SEED)
    return [rng.choices(range(count), k=count) for _ in range(DRAWS)]


def _interval(value: float, drawn: list[float]) -> Interval:
    ordered = sorted(drawn)
    edge = 0.025 * (len(ordered) - 1)
    return Interval(value, ordered[math.floor(edge)], ordered[math.ceil(len(ordered) - 1 - edge)])
