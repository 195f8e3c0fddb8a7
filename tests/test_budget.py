"""What normal prompts may lose: each bound on its own, and too few prompts to keep one."""

import math
from dataclasses import replace

import pytest

from lora_sku.budget import Budget, Cost, refuse_too_few
from lora_sku.errors import DataError
from lora_sku.metrics import upper_bound

BUDGET = Budget(1.05, first_kl=0.1, refused=0.03, hard_negatives_refused=0.1)
FREE = Cost("retain", 1.0, 0.0, 0.0, 0, 1000)
HARD = replace(FREE, name="hard_negatives")
SHOP = replace(FREE, name="shop")

# How often of 1000 at most, so that the upper end stays within a bound.
MOST = max(n for n in range(1000) if upper_bound(n, 1000) <= 0.03)
MOST_HARD = max(n for n in range(1000) if upper_bound(n, 1000) <= 0.1)


def test_what_costs_nothing_breaks_nothing() -> None:
    assert BUDGET.broken_by([FREE, SHOP, HARD]) is None
    assert Budget(1.05).broken_by([replace(FREE, refused=1000, first_kl=9.0)]) is None


@pytest.mark.parametrize(
    ("within", "beyond", "key"),
    [
        (
            [replace(FREE, perplexity_ratio=1.05)],
            [replace(FREE, perplexity_ratio=1.0501)],
            "negation.retain_budget, on the retain set",
        ),
        (
            [FREE, replace(SHOP, perplexity_ratio=1.05)],
            [FREE, replace(SHOP, perplexity_ratio=1.06)],
            "negation.retain_budget, on the shop set",
        ),
        (
            [replace(FREE, first_kl=0.1)],
            [replace(FREE, first_kl=0.101)],
            "negation.kl_budget, on the retain set",
        ),
        (
            [FREE, replace(SHOP, first_kl=0.1, kl=9.0)],  # the mean KL is told, not bounded
            [FREE, replace(SHOP, first_kl=0.2)],
            "negation.kl_budget, on the shop set",
        ),
        (
            [replace(FREE, refused=MOST)],
            [replace(FREE, refused=MOST + 1)],
            "negation.refusals_budget",
        ),
        (
            # All sets' prompts together: twice as many bear a little more.
            [replace(FREE, refused=MOST), replace(SHOP, refused=MOST)],
            [replace(FREE, refused=MOST + 9), replace(SHOP, refused=MOST + 9)],
            "negation.refusals_budget",
        ),
        (
            [FREE, replace(HARD, refused=MOST_HARD)],
            [FREE, replace(HARD, refused=MOST_HARD + 1)],
            "negation.hard_negatives_budget",
        ),
    ],
)
def test_each_bound_is_kept_up_to_its_value_and_named_by_its_key(
    within: list[Cost], beyond: list[Cost], key: str
) -> None:
    assert BUDGET.broken_by(within) is None
    assert BUDGET.broken_by(beyond) == key


def test_hard_negatives_have_no_bound_but_their_own() -> None:
    costly = replace(HARD, perplexity_ratio=9.0, first_kl=9.0, refused=MOST + 9)
    assert BUDGET.broken_by([FREE, costly]) is None
    assert Budget(1.05, refused=0.03).broken_by([FREE, replace(HARD, refused=999)]) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_figure_that_is_no_number_is_beyond_every_bound(bad: float) -> None:
    assert "retain_budget" in str(BUDGET.broken_by([replace(FREE, perplexity_ratio=bad)]))
    assert "kl_budget" in str(BUDGET.broken_by([replace(FREE, first_kl=bad)]))
    assert Budget(1.05).broken_by([replace(FREE, first_kl=bad)]) is None


def test_a_bound_holds_for_the_upper_end_of_the_interval() -> None:
    # Nobody of 87 refused can still be more than 3 % of all; of 88, no more.
    for prompts, broken in ((87, "negation.refusals_budget"), (88, None)):
        assert Budget(1.05, refused=0.03).broken_by([replace(FREE, prompts=prompts)]) == broken
    # Asking for less certainty takes fewer prompts.
    certain = Budget(1.05, refused=0.03, confidence=0.6)
    assert certain.broken_by([replace(FREE, prompts=87)]) is None


def test_without_hard_negatives_their_bound_is_kept() -> None:
    assert Budget(1.05, hard_negatives_refused=0.01).broken_by([FREE]) is None


# Before training


@pytest.mark.parametrize(
    ("prompts", "key", "told"),
    [
        (
            {"retain": 87},
            "refusals_budget",
            "0.03 refused is more than 87 validation prompts of ret",
        ),
        (
            {"retain": 40, "shop": 47},
            "refusals_budget",
            "more than 87 validation prompts of retain",
        ),
        (
            {"retain": 100, "hard_negatives": 20},
            "hard_negatives_budget",
            "0.1 refused is more than 2",
        ),
    ],
)
def test_too_few_prompts_for_a_bound_are_told_with_the_number_that_it_takes(
    prompts: dict[str, int], key: str, told: str
) -> None:
    with pytest.raises(DataError) as caught:
        refuse_too_few(BUDGET, prompts)
    assert caught.value.where == f"negation.{key}"
    assert told in caught.value.problem
    needed = {"refusals_budget": 88, "hard_negatives_budget": 25}[key]
    assert f"It takes {needed}:" in str(caught.value.remedy)


def test_too_few_hard_negatives_are_told_of_alone() -> None:
    with pytest.raises(DataError, match="20 validation prompts of hard_negatives can"):
        refuse_too_few(BUDGET, {"retain": 100, "hard_negatives": 20})


@pytest.mark.parametrize(
    ("budget", "prompts"),
    [
        (BUDGET, {"retain": 88, "hard_negatives": 25}),
        (BUDGET, {"retain": 40, "shop": 48}),
        (Budget(1.05), {"retain": 1, "hard_negatives": 1}),
    ],
)
def test_enough_prompts_or_no_bound_are_fine(budget: Budget, prompts: dict[str, int]) -> None:
    refuse_too_few(budget, prompts)
