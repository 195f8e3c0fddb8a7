"""The sweep finds the strongest forgetting within the budget, and says what it measured."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import FORGET, RETAIN, adapt, load, make_encoder, teach

from lora_sku.data import Row
from lora_sku.errors import AdapterError
from lora_sku.likelihood import AnswerScorer, Likelihood
from lora_sku.live_factors import LiveFactors
from lora_sku.model import ACQUIRED
from lora_sku.sweep import LARGEST, PER_OCTAVE, SMALLEST, Budget, Point, Sweep, sweep


class FakeLive:
    """Remembers the strength that it was set to."""

    def __init__(self) -> None:
        self.strength = 0.0
        self.restored = False

    def negate(self, strength: float) -> None:
        self.strength = strength

    def restore(self) -> None:
        self.restored = True


class FakeScorer:
    """A given NLL of the live adapter's strength, in nats above a base of 2."""

    base_nll = 2.0

    def __init__(self, live: FakeLive, gain: Callable[[float], float]) -> None:
        self._live, self._gain = live, gain

    def score(self) -> Likelihood:
        gain = self._gain(self._live.strength)
        return Likelihood(2.0 + gain, gain / 2)


def swept(forget: Callable[..., float], retain: Callable[..., float], **keys: object) -> object:
    live = FakeLive()
    settings = {"budget": Budget(1.05), **keys}
    try:
        normal = {"retain": retain, **settings.pop("protected", {})}
        scorers = {name: FakeScorer(live, gain) for name, gain in normal.items()}
        return sweep(live, FakeScorer(live, forget), scorers, **settings)
    finally:
        assert live.restored


@pytest.mark.parametrize("limit", [0.07, 0.4, 1.0, 1.3, 3.0, 9.0])
def test_it_closes_in_on_the_strength_where_the_budget_ends(limit: float) -> None:
    budget = math.log(1.05)
    result = swept(lambda s: s, lambda s: budget * s / limit * (1 - 1e-9))
    assert limit / 2 ** (1 / PER_OCTAVE) <= result.choice.strength <= limit
    assert result.choice.retain_perplexity_ratio <= 1.05
    assert result.choice.forget_nll == pytest.approx(2 + result.choice.strength)
    assert result.choice.forget_kl == pytest.approx(result.choice.strength / 2)


COSTS: dict[str, Callable[[float], float]] = {
    "linear": lambda s: s,
    "as a KL": lambda s: s**2,
    "after a gain": lambda s: s**2 - 0.3 * s,
    "a steep end": lambda s: 0.1 * s + s**8,
    "a wall": lambda s: math.nan if s > 1.3 else 1e-3 * s,
    "nothing": lambda s: 0.0,
    "explosive": lambda s: 2.0 ** min(s, 900.0) - 1,
}


@pytest.mark.parametrize("shape", COSTS)
@pytest.mark.parametrize("limit", [0.01, 0.3, 1.0, 7.0, 50.0])
def test_it_finds_what_measuring_the_whole_grid_finds_in_a_few_points(
    shape: str, limit: float
) -> None:
    budget, cost = math.log(1.05), COSTS[shape]
    result = swept(lambda s: s, lambda s: budget * cost(s / limit) * (1 - 1e-9))
    grid = [2 ** (k / PER_OCTAVE) for k in range(-8 * PER_OCTAVE, 6 * PER_OCTAVE + 1)]
    assert result.choice.strength == max(s for s in grid if cost(s / limit) <= 1)
    most = {"a steep end": 13, "a wall": 14, "explosive": 13}
    assert len(result.points) <= most.get(shape, 8)


def test_a_curve_has_a_point_between_nothing_and_the_choice() -> None:
    points = swept(lambda s: s, lambda s: 0.01 * s**2).points
    choice = swept(lambda s: s, lambda s: 0.01 * s**2).choice.strength
    assert any(0.35 * choice <= point.strength <= 0.71 * choice for point in points)


def test_a_budget_that_never_ends_stops_at_the_largest_strength() -> None:
    assert swept(lambda s: s, lambda s: 0.0).choice.strength == LARGEST


def test_a_budget_that_nothing_keeps_is_refused() -> None:
    with pytest.raises(AdapterError, match=f"even at strength {SMALLEST:g}"):
        swept(lambda s: s, lambda s: 1.0)


def test_an_answer_that_blows_up_is_beyond_every_budget_and_no_choice() -> None:
    for bad in (math.nan, math.inf, 1e4):
        result = swept(lambda s: s, lambda s, bad=bad: bad if s > 1 else 0.0)
        assert result.choice.strength == 1.0
        text = json.dumps(result.as_dict(), allow_nan=False)
        assert json.loads(text)["points"][-1]["retain_perplexity_ratio"] is None
        result = swept(lambda s, bad=bad: bad if s > 1 else s, lambda s: 0.0)
        assert (result.choice.strength > 1.0) == math.isfinite(bad)


def test_what_breaks_harmful_answers_alone_ends_the_search_as_a_budget_does() -> None:
    for most in (0.25, 7.0):
        result = swept(lambda s, most=most: s if s <= most else math.nan, lambda s: 0.0)
        assert result.choice.strength == pytest.approx(most, rel=0.05)
        assert result.choice.strength <= most
    with pytest.raises(AdapterError, match=r"compute_dtype: .*harmful answers is no finite number"):
        swept(lambda s: math.nan, lambda s: 0.0)


def test_every_point_is_told() -> None:
    told: list[Point] = []
    result = swept(lambda s: s, lambda s: s / 20, on_point=told.append)
    assert set(told) == set(result.points)
    assert len(told) == len(result.points) > 2
    points = result.as_dict()["points"]
    assert points[0].keys() == {
        *("strength", "forget_nll", "forget_kl", "retain_perplexity_ratio", "retain_kl"),
        "protected",
    }
    assert points[0]["protected"] == {}


def test_the_budget_holds_for_every_protected_set_on_its_own() -> None:
    budget = math.log(1.05)

    def costs(limit: float) -> Callable[..., float]:
        return lambda s: budget * s / limit * (1 - 1e-9)

    result = swept(lambda s: s, costs(8.0), protected={"shop": costs(1.0), "law": costs(30.0)})
    choice = result.choice
    assert 2**-0.07 <= choice.strength <= 1.0
    assert [cost.name for cost in choice.costs] == ["retain", "shop", "law"]
    assert choice.largest.name == "shop"
    ratios = [cost.perplexity_ratio for cost in choice.costs]
    assert ratios == pytest.approx([1.05 ** (choice.strength / limit) for limit in (8, 1, 30)])
    told = json.loads(json.dumps(result.as_dict(), allow_nan=False))["choice"]
    assert told["retain_perplexity_ratio"] == ratios[0]
    assert [told["protected"][name]["perplexity_ratio"] for name in ("shop", "law")] == ratios[1:]
    assert told["protected"]["shop"]["kl"] == choice.protected[0].kl > 0


def test_the_set_that_no_strength_spares_is_named() -> None:
    with pytest.raises(AdapterError, match=r"retain_budget: .* times the base's, on the shop set"):
        swept(lambda s: s, lambda s: 0.0, protected={"shop": lambda s: math.nan})


def test_a_real_model_is_moved_measured_and_put_back(calm_llama: Path) -> None:
    model = adapt(load(calm_llama))
    teach(model, std=0.02)
    model.peft_model.eval()
    before = {name: p.clone() for name, p in model.trained_parameters().items()}
    encoder = make_encoder(model.base)

    def scorer(texts: dict[str, tuple[str, ...]]) -> AnswerScorer:
        rows = [Row(prompt, answers) for prompt, answers in list(texts.items())[:4]]
        return AnswerScorer(model, encoder, rows, pairs_at_once=4)

    live = LiveFactors(model, ACQUIRED)
    normal = {"retain": scorer(RETAIN)}
    result = sweep(live, scorer(FORGET), normal, budget=Budget(1.05))
    assert result.choice.retain_perplexity_ratio <= 1.05
    assert result.choice.forget_kl > 0
    assert all(torch.equal(p, before[n]) for n, p in model.trained_parameters().items())
    live.negate(result.choice.strength)
    again = scorer(FORGET).score()
    assert (again.nll, again.kl) == (result.choice.forget_nll, result.choice.forget_kl)


@pytest.mark.parametrize("limit", [0.02, 0.3, 4.0])
def test_a_budget_on_kl_holds_where_perplexity_costs_nothing(limit: float) -> None:
    # A fake's KL is half of what its NLL gains; the retain set's grows without a change of NLL.
    class Moved(FakeScorer):
        def score(self) -> Likelihood:
            return Likelihood(2.0, 0.1 * self._live.strength)

    live = FakeLive()
    forget, retain = FakeScorer(live, lambda strength: strength), Moved(live, lambda _: 0.0)

    def within(kl: float) -> Sweep:
        return sweep(live, forget, {"retain": retain}, budget=Budget(1.05, kl))

    result = within(0.1 * limit)
    assert 0.93 * limit <= result.choice.strength <= limit
    assert result.as_dict()["kl_budget"] == pytest.approx(0.1 * limit)
    with pytest.raises(
        AdapterError,
        match=r"kl_budget: .*KL at normal answers is more than 1e-06 .* retain set\. "
        r"Raise negation\.kl_budget, or",
    ):
        within(1e-6)
