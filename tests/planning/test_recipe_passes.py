"""Passes have the recipe's lengths, and no answer that weighs nothing."""

import pytest
from run_tools import changed

from lora_sku.planning import plan
from lora_sku.recipe import Recipe


def test_a_prompt_stands_once_before_its_answers(recipe: Recipe) -> None:
    planned = plan(changed(recipe, training={"micro_batch_size": 1}))
    # 64 of the prompt, and 1 + k = 3 answers of 32, whose last tokens are no input.
    assert planned.tokens == 64 + 3 * 31
    assert planned.device == "cpu"


def test_tokens_in_flight_can_be_said(recipe: Recipe) -> None:
    for tokens in (60, 200, 3000):
        planned = plan(recipe, tokens=tokens)
        assert planned.tokens == pytest.approx(tokens, abs=6)
        assert not planned.upper_bound
    small, large = (plan(recipe, tokens=n).stage("acquire").total for n in (200, 2000))
    assert small < large


@pytest.mark.parametrize("term", ["guided_distortion", "random_disassociation"])
def test_a_term_that_weighs_nothing_takes_nothing(recipe: Recipe, term: str) -> None:
    without = changed(recipe, losses={term: {"weight": 0.0}})
    assert plan(without).tokens < plan(recipe).tokens


def test_without_preservation_only_the_forget_pass_is_planned(recipe: Recipe) -> None:
    without = changed(recipe, losses={"preservation_divergence": {"weight": 0.0}})
    assert plan(without).stage("acquire").total <= plan(recipe).stage("acquire").total
