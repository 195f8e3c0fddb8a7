"""How much to take away: the strength that forgets most within budgets on normal answers.

The search closes in on the largest strength whose perplexity stays within the budget on the retain
set and on each protected one, for none may pay for what another gains. Strengths are those of a
grid, and the next one to measure is where a power law through the last two would have used the
budget up: a cost grows about as the square of the strength.

Given answers can stay as likely while the model says something else: the second budget, on KL, is
what holds it to its own words. Every figure is taken on the validation split, so that the unseen
one stays unseen. Perplexity need not grow with the strength everywhere: the choice is made among
the points that were measured, so it always keeps the budget there.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lora_sku.errors import AdapterError
from lora_sku.likelihood import AnswerScorer
from lora_sku.live_factors import LiveFactors

LARGEST = 64.0  # strong preservation leaves a few percent of the task vector's effect
SMALLEST = 1 / 256  # without preservation a delta is large, and has a choice too
PER_OCTAVE = 16  # strengths of the grid, which has 1: neighbours differ by 4 %
_FIRST, _LAST = (round(PER_OCTAVE * math.log2(end)) for end in (SMALLEST, LARGEST))
_FARTHEST = 3 * PER_OCTAVE  # of a guess from what is known
_GUESSES = 6  # of a curve that a power law does not fit; then the bracket is halved

OnPoint = Callable[["Point"], None]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a point does to the validation split of one normal set.

    Attributes:
        name: "retain", or the protected set's.
        perplexity_ratio: Perplexity of its answers over theta_o's.
        kl: KL(theta_o || model) at those answers, nats per token.
    """

    name: str
    perplexity_ratio: float
    kl: float


@dataclass(frozen=True, slots=True)
class Budget:
    """What a normal set may pay.

    Attributes:
        perplexity_ratio: At most, above 1.
        kl: At most, nats per token; None is no bound.
    """

    perplexity_ratio: float
    kl: float | None = None

    def allows(self, cost: Cost) -> bool:
        """Whether a set pays no more; what is no number is too much."""
        within = cost.perplexity_ratio <= self.perplexity_ratio
        return within and (self.kl is None or cost.kl <= self.kl)

    def share(self, cost: Cost) -> float:
        """How much of it a set has used up: 1 is all, and what is no number is more than any."""
        ratio = cost.perplexity_ratio
        used = math.log(ratio) / math.log(self.perplexity_ratio) if ratio > 0 else -math.inf
        shares = [used] if self.kl is None else [used, cost.kl / self.kl]
        return math.inf if any(map(math.isnan, shares)) else max(shares)


@dataclass(frozen=True, slots=True)
class Point:
    """One strength, and what it does to the validation split.

    Attributes:
        strength: Multiple of the task vector that is taken away.
        forget_nll: Of the harmful answers, nats per token.
        forget_kl: KL(theta_o || model) at those answers.
        retain_perplexity_ratio: Perplexity of the retain set's answers over theta_o's.
        retain_kl: KL(theta_o || model) at those answers.
        protected: The same two of each protected set.
    """

    strength: float
    forget_nll: float
    forget_kl: float
    retain_perplexity_ratio: float
    retain_kl: float
    protected: tuple[Cost, ...] = ()

    @property
    def costs(self) -> tuple[Cost, ...]:
        """Of every normal set, the retain set first."""
        return Cost("retain", self.retain_perplexity_ratio, self.retain_kl), *self.protected

    @property
    def largest(self) -> Cost:
        """Of the set whose perplexity is hurt most."""
        return max(self.costs, key=lambda cost: cost.perplexity_ratio)

    def within(self, budget: "Budget") -> bool:
        """Whether no normal set pays more."""
        return all(budget.allows(cost) for cost in self.costs)

    def allowed(self, budget: "Budget") -> bool:
        """Whether it may be chosen: within the budget, and forgetting is a number too."""
        return math.isfinite(self.forget_nll) and self.within(budget)


@dataclass(frozen=True)
class Sweep:
    """The whole curve and the choice.

    Attributes:
        budget: What any normal set may pay.
        base_forget_nll: theta_o's, nats per token.
        base_retain_nll: theta_o's.
        points: All that were measured, by strength.
        choice: The one with the highest forget_nll within the budget.
    """

    budget: Budget
    base_forget_nll: float
    base_retain_nll: float
    points: tuple[Point, ...]
    choice: Point

    def as_dict(self) -> dict[str, Any]:
        """For sweep.json; a figure that is no finite number is null."""
        return {
            "retain_budget": self.budget.perplexity_ratio,
            "kl_budget": self.budget.kl,
            "base_forget_nll": self.base_forget_nll,
            "base_retain_nll": self.base_retain_nll,
            "choice": _told(self.choice),
            "points": [_told(point) for point in self.points],
        }


def sweep(
    live: LiveFactors,
    forget: AnswerScorer,
    normal: Mapping[str, AnswerScorer],
    *,
    budget: Budget,
    on_point: OnPoint = lambda _: None,
) -> Sweep:
    """Find the strongest forgetting within the budget; the live adapter is put back afterwards.

    Args:
        live: The adapter on the model that the scorers score.
        forget: Of the validation split.
        normal: Of the validation split of the retain set, called "retain", and of each protected
            one.
        budget: What any of them may pay.
        on_point: Called with every point.

    Raises:
        AdapterError: if even the smallest strength is beyond the budget or breaks the model.
    """

    def measure(strength: float) -> Point:
        live.negate(strength)
        harm = forget.score()
        retain, *protected = (_cost(name, scorer) for name, scorer in normal.items())
        costs = retain.perplexity_ratio, retain.kl, tuple(protected)
        point = Point(strength, harm.nll, harm.kl, *costs)
        on_point(point)
        return point

    try:
        points = list(_curve(measure, budget))
    finally:
        live.restore()
    allowed = [point for point in points if point.allowed(budget)]
    if not allowed:
        raise _too_much(points, budget)
    return Sweep(
        budget=budget,
        base_forget_nll=forget.base_nll,
        base_retain_nll=normal["retain"].base_nll,
        points=tuple(sorted(points, key=lambda point: point.strength)),
        choice=max(allowed, key=lambda point: point.forget_nll),
    )


def _curve(measure: Callable[[float], Point], budget: Budget) -> Iterator[Point]:
    """Points that close in on the strength where the budget ends."""
    used: dict[int, float] = {}  # place on the grid -> share of the budget
    inside, outside, place = _FIRST - 1, _LAST + 1, 0
    while inside + 1 < outside:
        point = measure(_strength(place))
        yield point
        shares = [budget.share(cost) for cost in point.costs]
        used[place] = max(shares) if math.isfinite(point.forget_nll) else math.inf
        if point.allowed(budget):
            inside = place
        else:
            outside = place
        place = _next_place(used, inside, outside)
    half = inside - PER_OCTAVE
    # For the eye: between nothing and the choice a curve has a shape.
    if half >= _FIRST and not any(abs(place - half) <= PER_OCTAVE // 2 for place in used):
        yield measure(_strength(half))


def _strength(place: int) -> float:
    return math.exp2(place / PER_OCTAVE)


def _next_place(used: Mapping[int, float], inside: int, outside: int) -> int:
    """Where the budget is likely to end, strictly between both; halfway after many guesses.

    Args:
        used: Place on the grid -> share of the budget, in the order of measuring.
        inside: The last place that keeps the budget, or the one before the grid.
        outside: The first place that does not, or the one behind the grid.
    """
    if len(used) >= _GUESSES:
        return (inside + outside) // 2
    (last, share), *others = list(used.items())[::-1]
    power = 2.0
    if others and 0 < share < math.inf and 0 < others[0][1] < math.inf:
        octaves = (last - others[0][0]) / PER_OCTAVE
        power = min(max(math.log2(share / others[0][1]) / octaves, 0.5), 8.0)
    if 0 < share < math.inf:
        away = -PER_OCTAVE * math.log2(share) / power
    else:  # it costs nothing, or the model is broken
        away = math.copysign(math.inf, 0.5 - share)
    guess = last + math.floor(min(max(away, -_FARTHEST), _FARTHEST))
    return min(max(guess, inside + 1), outside - 1)


def _too_much(points: Sequence[Point], budget: Budget) -> AdapterError:
    """Which budget even the cheapest point breaks, and where."""
    if any(point.within(budget) for point in points):
        return AdapterError(
            f"even at strength {SMALLEST:g} the loss of harmful answers is no finite number",
            where="base_model.compute_dtype",
            remedy="Set it to bfloat16 or float32, whose numbers go further than float16's.",
        )
    hurt = min((point.largest for point in points), key=lambda cost: cost.perplexity_ratio)
    if budget.kl is None or hurt.perplexity_ratio > budget.perplexity_ratio:
        key, name = "negation.retain_budget", hurt.name
        times = f"{budget.perplexity_ratio:g} times the base's"
        most = f"the perplexity of normal answers is more than {times}"
    else:
        moved = [max(point.costs, key=lambda cost: cost.kl) for point in points]
        key, name = "negation.kl_budget", min(moved, key=lambda cost: cost.kl).name
        most = f"KL at normal answers is more than {budget.kl:g} nats per token"
    return AdapterError(
        f"even at strength {SMALLEST:g} {most}, on the {name} set",
        where=key,
        remedy=f"Raise {key}, or train with a larger losses.preservation_divergence.weight.",
    )


def _cost(name: str, scorer: AnswerScorer) -> Cost:
    told = scorer.score()
    return Cost(name, _exp(told.nll - scorer.base_nll), told.kl)


def _exp(value: float) -> float:
    """exp, infinite where it is too large for a float or the value is no number."""
    return math.exp(value) if value < 700 else math.inf


def _told(point: Point) -> dict[str, Any]:
    protected = {
        cost.name: _finite({"perplexity_ratio": cost.perplexity_ratio, "kl": cost.kl})
        for cost in point.protected
    }
    return _finite(asdict(replace(point, protected=()))) | {"protected": protected}


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    bad = {name for name, v in figures.items() if isinstance(v, float) and not math.isfinite(v)}
    return {name: None if name in bad else value for name, value in figures.items()}
