"""Passes have the recipe's lengths, and no answer that weighs nothing."""

from typing import Any

import pytest
from run_tools import changed

from lora_sku.planning import plan
from lora_sku.planning.passes import Pass
from lora_sku.planning.recipe_passes import BEGUN_TOKENS, stage_1_passes
from lora_sku.recipe import Recipe

ONE, NONE = {"weight": 1.0}, {"weight": 0.0}
PROMPTS = 2


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
    assert names(recipe, preservation_divergence={"weight": 0.0}) == ["forget"]


@pytest.mark.parametrize(
    ("side", "answers"),
    [
        ("negated", [(32, 32)]),  # its own answer, and a safe response behind it
        ("acquired", [(32,), (32,)]),
        ("both", [(32,), (32, 32)]),
    ],
)
def test_normal_prompts_go_through_each_face_that_has_a_loss(
    recipe: Recipe, side: str, answers: list[tuple[int, ...]]
) -> None:
    losses = {"preservation_divergence": {"side": side, "prompts": 3}, "held_responses": ONE}
    passes = [work for work in planned(recipe, **losses) if work.name == "retain"]
    assert [work.answers for work in passes] == [
        tuple(3 * PROMPTS * n for n in of_pass) for of_pass in answers
    ]
    assert [work.load.count for work in passes] == [
        3 * PROMPTS * (64 + sum(n - 1 for n in of_pass)) for of_pass in answers
    ]
    assert [work.load.unfolds for work in passes] == [
        (3 * PROMPTS * len(of_pass), 64 + max(of_pass) - 1) for of_pass in answers
    ]
    assert {work.loss for work in passes} == {"kl"}


def test_safe_responses_have_a_pass_of_their_own(recipe: Recipe) -> None:
    forget, safe, retain = planned(recipe, safe_response=ONE)
    assert [forget.name, safe.name, retain.name] == ["forget", "safe", "retain"]
    assert (safe.answers, safe.loss) == ((PROMPTS * 32,), "nll")
    assert safe.load.count == PROMPTS * (64 + 31)


def test_words_of_a_begun_answer_are_counted_before_responses_alone(recipe: Recipe) -> None:
    half = {"safe_response": {"weight": 1.0, "begun": 0.5}, "held_responses": ONE}
    without = planned(recipe, safe_response=ONE, held_responses=ONE)
    with_ = planned(recipe, **half)
    more = [w.load.count - wo.load.count for w, wo in zip(with_, without, strict=True)]
    assert more == [0, PROMPTS * BEGUN_TOKENS, PROMPTS * BEGUN_TOKENS]
    assert [w.answers for w in with_] == [w.answers for w in without]
    _, kept = stage_1_passes(changed(recipe, losses=half), PROMPTS, 400, packs=True)
    assert max(work.load.count for work in kept) in (399, 400)


def test_a_recipe_of_safe_responses_alone_is_planned(recipe: Recipe) -> None:
    losses = {"guided_distortion": NONE, "random_disassociation": NONE, "safe_response": ONE}
    assert names(recipe, **losses) == ["safe", "retain"]
    assert names(recipe, **losses, preservation_divergence=NONE) == ["safe"]
    alone = changed(recipe, losses=losses)
    assert plan(alone).tokens == PROMPTS * (64 + 31)
    assert plan(alone).stage("acquire").total < plan(recipe).stage("acquire").total


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("tokens", [40, 100, 300, 3000])
def test_tokens_in_flight_are_those_of_the_largest_pass(
    recipe: Recipe, tokens: int, packs: bool
) -> None:
    many = {"preservation_divergence": {"prompts": 4}, "held_responses": ONE, "safe_response": ONE}
    lengths, passes = stage_1_passes(changed(recipe, losses=many), PROMPTS, tokens, packs=packs)
    largest = max(passes, key=lambda work: work.load.count)
    assert largest.name == "retain"
    copies = 4 * PROMPTS * (1 if packs else 2)  # of a prompt, with two answers of two tokens
    least = copies + 4 * PROMPTS * 2
    assert largest.load.count == pytest.approx(max(tokens, least), abs=copies)
    assert largest.load.count <= max(tokens, least)
    assert lengths.prompt >= 1
    assert lengths.answer >= 2


def planned(recipe: Recipe, **losses: Any) -> tuple[Pass, ...]:
    return stage_1_passes(changed(recipe, losses=losses), PROMPTS, None, packs=True)[1]


def names(recipe: Recipe, **losses: Any) -> list[str]:
    return [work.name for work in planned(recipe, **losses)]
