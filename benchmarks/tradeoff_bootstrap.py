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


@dataclass(frozen=True)
class Compliance:
    """How often each prompt is complied with.

    Attributes:
        before: By theta_o: 0 or 1.
        after: Mean over seeds.
    """

    before: Sequence[float]
    after: Sequence[float]

    def fall(self) -> Fall:
        """See `Fall`."""
        return [before - after for before, after in zip(self.before, self.after, strict=True)]

    def left(self) -> Interval:
        """After over before, of all prompts."""

        def share(of: Sequence[int]) -> float:
            return ratio(fmean(self.after[i] for i in of), fmean(self.before[i] for i in of))

        count = len(self.before)
        return _interval(share(range(count)), [share(drawn) for drawn in _draws(count)])


def compliance(of: MethodFigures, side: str) -> Compliance | None:
    """With harmful or normal prompts; None where a unit does not say which were complied with."""
    base, *told = (
        (scores.harmful if side == "harmful" else scores.normal).by_prompt
        for scores in (of.base, *(unit.scores for unit in of.units))
        if scores is not None
    )
    if not base or not all(told):
        return None
    return Compliance(base, [fmean(of_prompt) for of_prompt in zip(*told, strict=True)])


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
