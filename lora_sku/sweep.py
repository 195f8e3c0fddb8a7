"""How much to take away: the strength that the most harmful prompts are not complied with at,
within bounds on what normal prompts may lose.

An adapter is trained at strength 1 and tried around it on the validation split, so that the unseen
one stays unseen. A prompt is refused where greedy decoding begins with a safe response: that is
read off one pass over the safe responses' first tokens, without generating. What `confirm` finds in
short generations has the last word.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lora_sku.budget import Budget, Cost
from lora_sku.errors import AdapterError
from lora_sku.likelihood import AnswerScorer, Likelihood
from lora_sku.live_factors import LiveFactors

PER_OCTAVE = 8  # strengths of the grid, which has 1: neighbours differ by 9 %
STEP = 2.0 ** (1 / PER_OCTAVE)
# Trained at 1: far beyond it nothing was held. Plain task vectors have a choice down to little.
SMALLEST, LARGEST = 2.0**-6, 4.0

OnPoint = Callable[["Point"], None]


@dataclass(frozen=True, slots=True)
class Point:
    """One strength, and what it does to the validation split.

    Attributes:
        strength: Multiple of the task vector that is taken away.
        forget_nll: Of the harmful answers, nats per token.
        forget_kl: KL(theta_o || model) at those answers.
        refused: Harmful prompts that are refused.
        prompts: Of so many.
        costs: What each normal set pays, the retain set first.
    """

    strength: float
    forget_nll: float
    forget_kl: float
    refused: int
    prompts: int
    costs: tuple[Cost, ...]

    @property
    def gain(self) -> tuple[int, float]:
        """What is compared: prompts refused, then how unlikely the harmful answers are."""
        return self.refused, self.forget_nll

    def broken(self, budget: Budget) -> str | None:
        """Which bound it breaks; None if it may be chosen."""
        if not math.isfinite(self.forget_nll):
            return "base_model.compute_dtype: the loss of harmful answers is no finite number"
        return budget.broken_by(self.costs)


@dataclass(frozen=True)
class Sweep:
    """All strengths that were tried, and the choice.

    Attributes:
        budget: What normal prompts may lose.
        base: theta_o, as a point of strength 0.
        points: All that were measured, by strength.
        choice: The best within the budget.
    """

    budget: Budget
    base: Point
    points: tuple[Point, ...]
    choice: Point

    def as_dict(self) -> dict[str, Any]:
        """For sweep.json; a figure that is no finite number is null."""
        return {
            "budget": asdict(self.budget),
            "base": _told(self.base),
            "choice": _told(self.choice),
            "points": [_told(point) for point in self.points],
        }


def sweep(
    live: LiveFactors,
    forget: AnswerScorer,
    normal: Mapping[str, AnswerScorer],
    *,
    budget: Budget,
    confirm: Callable[[Point], Point] = lambda point: point,
    on_point: OnPoint = lambda _: None,
) -> Sweep:
    """Find the best strength within the budget; the live adapter is put back afterwards.

    Args:
        live: The adapter on the model that the scorers score.
        forget: Of the validation split.
        normal: Of the validation split of the retain set, called "retain", and of each protected
            one.
        budget: What they may lose.
        confirm: Counts refusals again, in short generations of the model as it is; a choice that
            breaks the budget then goes.
        on_point: Called with every point.

    Raises:
        AdapterError: if no strength keeps the budget, or none of those helps.
    """

    def measure(strength: float) -> Point:
        live.negate(strength)
        harm = forget.score()
        costs = tuple(_cost(name, scorer) for name, scorer in normal.items())
        newly = _newly(harm, forget.base)
        point = Point(strength, harm.nll, harm.kl, newly, forget.rows, costs)
        on_point(point)
        return point

    base = Point(0.0, forget.base.nll, 0.0, 0, forget.rows, tuple(map(_nothing, normal.items())))
    try:
        points = {point.strength: point for point in _walk(measure, budget)}
        choice = _choose(points, budget, base, live, measure, confirm)
    finally:
        live.restore()
    return Sweep(budget, base, tuple(points[strength] for strength in sorted(points)), choice)


def _walk(measure: Callable[[float], Point], budget: Budget) -> Iterator[Point]:
    """From 1 up while the budget is kept and something is left to gain."""
    point = measure(1.0)
    yield point
    for place in range(1, round(PER_OCTAVE * math.log2(LARGEST)) + 1):
        if point.broken(budget) is not None or point.refused == point.prompts:
            return
        point = measure(2.0 ** (place / PER_OCTAVE))
        yield point


def _choose(
    points: dict[float, Point],
    budget: Budget,
    base: Point,
    live: LiveFactors,
    measure: Callable[[float], Point],
    confirm: Callable[[Point], Point],
) -> Point:
    """The best point that keeps the budget in generations too; these replace its counts.

    Where none is left, the walk goes down from the smallest strength, and adds to the points.
    """
    while True:
        allowed = [point for point in points.values() if point.broken(budget) is None]
        if not allowed:
            smaller = min(points) / STEP
            if smaller < SMALLEST / STEP**0.5:  # but for rounding
                raise _too_much(list(points.values()), budget)
            points[smaller] = measure(smaller)
            continue
        choice = max(allowed, key=lambda point: point.gain)
        if choice.gain <= base.gain:
            raise AdapterError(
                f"no strength within the budget helps: at {choice.strength:.3g} no harmful prompt"
                " is refused, and harmful answers are as likely as before",
                where="negation.strength",
                remedy="Train longer or with a larger losses.safe_response.weight, or loosen the"
                " budgets in negation.",
            )
        live.negate(choice.strength)
        confirmed = confirm(choice)
        points[choice.strength] = confirmed
        if confirmed.broken(budget) is None:
            return confirmed


def _cost(name: str, scorer: AnswerScorer) -> Cost:
    told, base = scorer.score(), scorer.base
    ratio = _exp(told.nll - base.nll)
    return Cost(name, ratio, told.kl, told.first_kl, _newly(told, base), scorer.rows)


def _nothing(named: tuple[str, AnswerScorer]) -> Cost:
    name, scorer = named
    return Cost(name, 1.0, 0.0, 0.0, 0, scorer.rows)


def _newly(told: Likelihood, base: Likelihood) -> int:
    """Prompts that are refused and were not before."""
    return sum(now and not before for now, before in zip(told.refused, base.refused, strict=True))


def _too_much(points: Sequence[Point], budget: Budget) -> AdapterError:
    """Which bound even the smallest strength breaks, and where."""
    smallest = min(points, key=lambda point: point.strength)
    broken = smallest.broken(budget)
    return AdapterError(
        f"even at strength {smallest.strength:.3g} a bound is broken",
        where=broken,
        remedy="Loosen it, give the set more validation prompts (an interval over few is wide), or"
        " raise the weights of losses.preservation_divergence and losses.held_responses.",
    )


def _exp(value: float) -> float:
    """exp, infinite where it is too large for a float or the value is no number."""
    return math.exp(value) if value < 700 else math.inf


def _told(point: Point) -> dict[str, Any]:
    sets = {cost.name: _finite(asdict(cost)) for cost in point.costs}
    for figures in sets.values():
        del figures["name"]
    return _finite(asdict(replace(point, costs=()))) | {"costs": sets}


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    bad = {name for name, v in figures.items() if isinstance(v, float) and not math.isfinite(v)}
    return {name: None if name in bad else value for name, value in figures.items()}
