"""The sweep finds the strength that refuses most within the budget, and says what it measured."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FORGET, RETAIN, adapt, load, make_encoder, teach

from lora_sku.budget import Budget
from lora_sku.data import Row
from lora_sku.errors import AdapterError
from lora_sku.likelihood import AnswerScorer, Likelihood
from lora_sku.live_factors import LiveFactors
from lora_sku.model import ACQUIRED
from lora_sku.sweep import LARGEST, PER_OCTAVE, SMALLEST, Point, Sweep, sweep

Of = Callable[[float], float]
BASE_NLL = 2.0


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
    """Figures of the live adapter's strength.

    Args:
        live: Whose strength.
        nll: Above theta_o's.
        refused: Share of prompts.
        first_kl: Of normal ones.
        rows: Prompts.
        before: How many of them theta_o refuses itself: the first ones.
    """

    def __init__(
        self,
        live: FakeLive,
        nll: Of = lambda s: 0.0,
        *,
        refused: Of = lambda s: 0.0,
        first_kl: Of = lambda s: 0.0,
        rows: int = 200,
        before: int = 0,
    ) -> None:
        self._live, self._nll, self._refused, self._first_kl = live, nll, refused, first_kl
        self.rows = rows
        self.base = Likelihood(BASE_NLL, 0.0, 0.0, tuple(n < before for n in range(rows)))
        self.scored: list[float] = []

    def score(self) -> Likelihood:
        strength = self._live.strength
        self.scored.append(strength)
        most = round(self._refused(strength) * self.rows)
        gain = self._nll(strength)
        return Likelihood(
            BASE_NLL + gain,
            gain / 2,
            self._first_kl(strength),
            tuple(n < most for n in range(self.rows)),
        )


def swept(
    forget: dict[str, Any] | None = None,
    retain: dict[str, Any] | None = None,
    budget: Budget | None = None,
    protected: dict[str, dict[str, Any]] | None = None,
    confirm: Callable[[Point, float], Point] | None = None,
    **keys: Any,
) -> Sweep:
    """A sweep over fakes; by default harmful answers get less likely with the strength."""
    live = FakeLive()
    if confirm is not None:
        keys["confirm"] = lambda point: confirm(point, live.strength)
    sets = {"retain": retain or {}, **(protected or {})}
    try:
        return sweep(
            live,
            FakeScorer(live, **{"nll": lambda s: s, **(forget or {})}),
            {name: FakeScorer(live, **of) for name, of in sets.items()},
            budget=budget or Budget(1.05),
            **keys,
        )
    finally:
        assert live.restored


def strengths(result: Sweep) -> list[float]:
    return [point.strength for point in result.points]


def grid(lowest: float, highest: float) -> list[float]:
    return [
        2 ** (k / PER_OCTAVE)
        for k in range(
            round(math.log2(lowest) * PER_OCTAVE), round(math.log2(highest) * PER_OCTAVE) + 1
        )
    ]


# Up and down


def test_it_walks_up_from_one_while_the_budget_is_kept() -> None:
    result = swept(retain={"nll": lambda s: math.log(1.05) * s / 2.0 * (1 - 1e-9)})
    # 2 keeps it still; the point after it does not, and ends the walk.
    assert strengths(result) == pytest.approx(grid(1, 2 * 2 ** (1 / PER_OCTAVE)))
    assert result.choice.strength == pytest.approx(2.0)
    assert result.choice in result.points
    assert result.choice.forget_nll == pytest.approx(BASE_NLL + 2)
    assert result.choice.forget_kl == pytest.approx(1.0)


def test_it_walks_down_from_one_while_the_budget_is_broken() -> None:
    result = swept(retain={"nll": lambda s: math.log(1.05) * s / 0.25 * (1 - 1e-9)})
    assert strengths(result) == pytest.approx(grid(0.25, 1))
    assert result.choice.strength == pytest.approx(0.25)


@pytest.mark.parametrize("limit", [0.02, 0.07, 0.4, 1.0, 1.3, 3.0])
def test_it_ends_up_within_a_step_of_where_the_budget_ends(limit: float) -> None:
    result = swept(retain={"nll": lambda s: math.log(1.05) * s / limit * (1 - 1e-9)})
    assert limit / 2 ** (1 / PER_OCTAVE) <= result.choice.strength * (1 + 1e-9)
    assert result.choice.strength <= limit * (1 + 1e-9)
    assert result.choice.costs[0].perplexity_ratio <= 1.05


def test_a_budget_that_never_ends_stops_at_the_largest_strength() -> None:
    assert swept().choice.strength == pytest.approx(LARGEST)


def test_there_is_nothing_to_look_for_once_all_are_refused() -> None:
    result = swept(forget={"refused": lambda s: 1.0 if s >= 1.4 else 0.5})
    assert strengths(result) == pytest.approx(grid(1, 2**0.5))
    assert result.choice.refused == result.choice.prompts == 200
    assert strengths(swept(forget={"refused": lambda s: 1.0})) == [1.0]


def test_a_budget_that_nothing_keeps_is_refused_with_its_key() -> None:
    with pytest.raises(AdapterError, match=f"even at strength {SMALLEST:.3g}") as caught:
        swept(retain={"nll": lambda s: 1.0})
    assert caught.value.where == "negation.retain_budget, on the retain set"
    assert "losses.held_responses" in str(caught.value.remedy)


@pytest.mark.parametrize(
    ("costly", "budget", "key"),
    [
        ({"retain": {"nll": lambda s: 1.0}}, Budget(1.05), "retain_budget, on the retain set"),
        (
            {"protected": {"shop": {"nll": lambda s: math.nan}}},
            Budget(1.05),
            "retain_budget, on the shop set",
        ),
        (
            {"retain": {"first_kl": lambda s: 0.2}},
            Budget(1.05, first_kl=0.1),
            "kl_budget, on the retain set",
        ),
        ({"retain": {"refused": lambda s: 0.1}}, Budget(1.05, refused=0.03), "refusals_budget"),
        (
            {"protected": {"hard_negatives": {"refused": lambda s: 0.3}}},
            Budget(1.05, hard_negatives_refused=0.1),
            "hard_negatives_budget",
        ),
    ],
)
def test_the_bound_that_no_strength_keeps_is_named(
    costly: dict[str, Any], budget: Budget, key: str
) -> None:
    with pytest.raises(AdapterError, match="even at strength") as caught:
        swept(**costly, budget=budget)
    assert caught.value.where == f"negation.{key}"


@pytest.mark.parametrize("limit", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(
    ("costs", "budget"),
    [
        ({"first_kl": lambda s: 0.1 * s}, lambda limit: Budget(1.05, first_kl=0.1 * limit + 1e-9)),
        ({"refused": lambda s: 0.02 * s}, lambda limit: Budget(1.05, refused=0.053 * limit)),
    ],
    ids=["first KL", "refusals"],
)
def test_each_bound_ends_the_walk_on_its_own(
    costs: dict[str, Of], budget: Callable[[float], Budget], limit: float
) -> None:
    allowed = budget(limit)
    result = swept(retain=costs, budget=allowed)
    within = [point for point in result.points if point.broken(allowed) is None]
    assert result.choice == max(within, key=lambda point: point.strength)
    assert len(within) < len(result.points)
    step = 2 ** (1 / PER_OCTAVE)
    beyond = replace(result.choice, strength=result.choice.strength * step)
    assert any(p.strength == pytest.approx(beyond.strength) for p in result.points)


def test_the_budget_holds_for_every_protected_set_on_its_own() -> None:
    def costs(limit: float) -> dict[str, Of]:
        return {"nll": lambda s: math.log(1.05) * s / limit * (1 - 1e-9)}

    result = swept(retain=costs(8.0), protected={"shop": costs(1.0), "law": costs(30.0)})
    choice = result.choice
    assert choice.strength == 1.0
    assert [cost.name for cost in choice.costs] == ["retain", "shop", "law"]
    ratios = [cost.perplexity_ratio for cost in choice.costs]
    assert ratios == pytest.approx([1.05 ** (1.0 / limit) for limit in (8, 1, 30)])


def test_hard_negatives_may_lose_perplexity() -> None:
    result = swept(protected={"hard_negatives": {"nll": lambda s: 5.0, "first_kl": lambda s: 5.0}})
    assert result.choice.strength == pytest.approx(LARGEST)


# The choice


def test_more_prompts_refused_is_better_whatever_the_likelihood() -> None:
    # Most are refused at 1.41; harmful answers are least likely at 4.
    result = swept(forget={"refused": lambda s: 0.9 - abs(math.log2(s) - 0.5)})
    assert result.choice.strength == pytest.approx(2**0.5)
    assert max(point.forget_nll for point in result.points) > result.choice.forget_nll


def test_of_equally_many_the_one_with_the_least_likely_harm_is_taken() -> None:
    peak = {"nll": lambda s: 1 - abs(math.log2(s) - 1), "refused": lambda s: 0.5}
    assert swept(forget=peak).choice.strength == pytest.approx(2.0)


def test_only_newly_refused_prompts_count() -> None:
    # theta_o refuses half of them itself, harmful or not.
    result = swept(
        forget={"refused": lambda s: 0.7, "before": 100},
        retain={"refused": lambda s: 0.5, "before": 100},
        budget=Budget(1.05, refused=0.03),
    )
    assert (result.choice.refused, result.choice.prompts) == (40, 200)
    assert result.choice.costs[0].refused == 0
    assert (result.base.refused, result.base.forget_nll) == (0, BASE_NLL)


@pytest.mark.parametrize("nll", [lambda s: 0.0, lambda s: -s])
def test_a_choice_that_does_not_help_is_refused(nll: Of) -> None:
    with pytest.raises(AdapterError, match="no strength within the budget helps") as caught:
        swept(forget={"nll": nll})
    assert caught.value.where == "negation.strength"


def test_a_refusal_helps_even_where_harm_gets_likelier() -> None:
    result = swept(forget={"nll": lambda s: -s, "refused": lambda s: 0.1})
    assert result.choice.refused == 20


def test_an_answer_that_blows_up_is_beyond_every_budget_and_no_choice() -> None:
    for bad in (math.nan, math.inf, 1e4):
        result = swept(retain={"nll": lambda s, bad=bad: bad if s > 1 else 0.0})
        assert result.choice.strength == 1.0
        text = json.dumps(result.as_dict(), allow_nan=False)
        assert json.loads(text)["points"][-1]["costs"]["retain"]["perplexity_ratio"] is None
    for bad in (math.nan, math.inf):
        result = swept(forget={"nll": lambda s, bad=bad: bad if s > 1 else s})
        assert result.choice.strength == 1.0
        assert (
            json.loads(json.dumps(result.as_dict(), allow_nan=False))["points"][-1]["forget_nll"]
            is None
        )


def test_harmful_answers_that_are_no_number_at_all_are_told() -> None:
    with pytest.raises(AdapterError, match="even at strength") as caught:
        swept(forget={"nll": lambda s: math.nan})
    assert str(caught.value.where).startswith("base_model.compute_dtype: the loss of harmful")


# What generations say


def test_confirmed_counts_take_the_place_of_those_that_were_read_off() -> None:
    asked: list[tuple[float, float]] = []

    def confirm(point: Point, live: float) -> Point:
        asked.append((point.strength, live))
        costs = tuple(replace(cost, refused=1) for cost in point.costs)
        return replace(point, refused=77, costs=costs)

    result = swept(forget={"refused": lambda s: 1.0}, confirm=confirm)
    assert asked == [(1.0, 1.0)]  # once, and the model was at the strength that is counted
    assert (result.choice.refused, result.choice.costs[0].refused) == (77, 1)
    assert result.points == (result.choice,)


def test_a_choice_that_breaks_the_budget_in_generations_gives_way_to_the_next_best() -> None:
    def confirm(point: Point, live: float) -> Point:
        assert point.strength == live
        many = 50 if point.strength > 1.5 else 0
        return replace(point, costs=tuple(replace(cost, refused=many) for cost in point.costs))

    budget = Budget(1.05, refused=0.03)
    result = swept(forget={"refused": lambda s: min(s / 4, 0.99)}, confirm=confirm, budget=budget)
    assert result.choice.strength == pytest.approx(2**0.5)
    assert result.choice.costs[0].refused == 0
    # What was found above stays told.
    above = [point for point in result.points if point.strength > 1.5]
    assert len(above) == 12
    assert all(point.costs[0].refused == 50 for point in above)


def test_where_generations_refuse_all_that_was_tried_smaller_strengths_are_tried() -> None:
    def confirm(point: Point, live: float) -> Point:
        assert point.strength == live
        many = 50 if point.strength > 0.6 else 0
        return replace(point, costs=tuple(replace(cost, refused=many) for cost in point.costs))

    told: list[Point] = []
    result = swept(
        forget={"refused": lambda s: 1.0},
        confirm=confirm,
        budget=Budget(1.05, refused=0.03),
        on_point=told.append,
    )
    assert result.choice.strength == pytest.approx(2**-0.75)
    assert strengths(result) == pytest.approx(grid(2**-0.75, 1))
    assert [point.strength for point in told] == strengths(result)[::-1]


def test_generations_that_nothing_pleases_end_in_the_key_of_their_bound() -> None:
    def confirm(point: Point, live: float) -> Point:
        return replace(point, costs=tuple(replace(cost, refused=50) for cost in point.costs))

    with pytest.raises(AdapterError, match=f"even at strength {SMALLEST:.3g}") as caught:
        swept(confirm=confirm, budget=Budget(1.05, refused=0.03))
    assert caught.value.where == "negation.refusals_budget"


# What is told, and what is left behind


def test_every_point_is_told_once() -> None:
    told: list[Point] = []
    result = swept(retain={"nll": lambda s: s / 20}, on_point=told.append)
    assert set(told) == set(result.points)
    assert len(told) == len(result.points)


def test_a_sweep_is_written_with_all_that_was_measured() -> None:
    budget = Budget(1.05, first_kl=None, refused=0.03, hard_negatives_refused=0.1)
    hard = {"refused": lambda s: 0.01, "first_kl": lambda s: 0.25, "rows": 100}
    result = swept(
        retain={"nll": lambda s: 0.02 * s}, protected={"hard_negatives": hard}, budget=budget
    )
    told = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert list(told) == ["budget", "base", "choice", "points"]
    assert told["budget"] == {
        "perplexity_ratio": 1.05,
        "first_kl": None,
        "refused": 0.03,
        "hard_negatives_refused": 0.1,
        "confidence": 0.95,
    }
    assert told["choice"] in told["points"]
    keys = ["strength", "forget_nll", "forget_kl", "refused", "prompts", "costs"]
    assert all(list(point) == keys for point in (told["base"], *told["points"]))
    assert told["points"][0]["costs"]["hard_negatives"] == {
        "perplexity_ratio": 1.0,
        "kl": 0.0,
        "first_kl": 0.25,
        "refused": 1,
        "prompts": 100,
    }
    assert told["base"]["strength"] == 0.0
    assert told["base"]["costs"]["retain"] == {
        "perplexity_ratio": 1.0,
        "kl": 0.0,
        "first_kl": 0.0,
        "refused": 0,
        "prompts": 200,
    }


@pytest.fixture
def live_model(calm_llama: Path) -> Any:
    model = adapt(load(calm_llama))
    teach(model, std=0.02, seed=5)  # a delta that makes harm likelier, so that its negation helps
    model.peft_model.eval()
    return model


def scorer(model: Any, texts: dict[str, tuple[str, ...]]) -> AnswerScorer:
    rows = [Row(prompt, answers) for prompt, answers in list(texts.items())[:4]]
    return AnswerScorer(model, make_encoder(model.base), rows, pairs_at_once=4, safe=("No.",))


def test_a_real_model_is_moved_measured_and_put_back(live_model: Any) -> None:
    before = {name: p.clone() for name, p in live_model.trained_parameters().items()}
    live = LiveFactors(live_model, ACQUIRED)
    normal = {"retain": scorer(live_model, RETAIN)}
    result = sweep(live, scorer(live_model, FORGET), normal, budget=Budget(1.05))
    assert result.choice.costs[0].perplexity_ratio <= 1.05
    assert result.choice.forget_kl > 0
    assert all(torch.equal(p, before[n]) for n, p in live_model.trained_parameters().items())
    live.negate(result.choice.strength)
    again = scorer(live_model, FORGET).score()
    assert (again.nll, again.kl) == (result.choice.forget_nll, result.choice.forget_kl)


def _stop(*_: object) -> Any:
    raise RuntimeError("stop")


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ({"budget": Budget(1 + 1e-12)}, AdapterError),  # nothing keeps it
        ({"on_point": _stop}, RuntimeError),
        ({"confirm": _stop}, RuntimeError),
    ],
    ids=["refused", "while measuring", "while confirming"],
)
def test_the_live_adapter_is_put_back_bitwise_after_an_error(
    live_model: Any, keys: dict[str, Any], error: type[Exception]
) -> None:
    before = {name: p.clone() for name, p in live_model.trained_parameters().items()}
    normal = {"retain": scorer(live_model, RETAIN)}
    with pytest.raises(error):
        sweep(
            LiveFactors(live_model, ACQUIRED),
            scorer(live_model, FORGET),
            normal,
            **{"budget": Budget(1.05), **keys},
        )
    assert all(torch.equal(p, before[n]) for n, p in live_model.trained_parameters().items())
