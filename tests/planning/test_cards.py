"""Cards that fit, and what to turn where none does."""

import pytest
from run_tools import changed

from lora_sku.errors import RecipeError
from lora_sku.planning import fits, forecast, knobs, plan
from lora_sku.planning.plan import Line, Plan, StagePlan
from lora_sku.planning.recipe_plan import turned
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import load_recipe

GIB = 2**30


def test_a_card_does_not_hold_what_its_name_says() -> None:
    def of(gib: float) -> dict[int, bool]:
        stage = StagePlan("a", "b", (Line("x", int(gib * GIB)),))
        return fits(Plan("m", "cuda", 1, 1, True, (stage,)))

    assert of(7.5) == {6: False, 8: True, **dict.fromkeys((10, 12, 16, 24, 48, 80), True)}
    assert not of(7.9)[8]
    assert not any(of(100).values())


def test_every_knob_is_planned_again_and_the_largest_gain_comes_first() -> None:
    recipe = load_recipe(
        "llama2-7b-paper", ["base_model.quantization=none", "training.gradient_checkpointing=false"]
    )
    found = [knob for knob in knobs(recipe) if knob.stage == "acquire"]
    settings = [knob.setting for knob in found]
    assert [k.saved for k in found] == sorted((k.saved for k in found), reverse=True)
    assert {
        "training.gradient_checkpointing=true",
        "training.micro_batch_size=1",
        "training.optim=auto",
        "base_model.quantization=nf4",
        "base_model.quantization=int8",
        "adapter.r=16",
        "data.max_answer_tokens=128",
        "losses.random_disassociation.responses=2",
    } == set(settings)
    before = plan(recipe).stage("acquire").total
    for knob in found:
        assert knob.total + knob.saved == before
    again = load_recipe(
        "llama2-7b-paper",
        ["base_model.quantization=nf4", "training.gradient_checkpointing=false"],
    )
    nf4 = next(k for k in found if k.setting.endswith("nf4"))
    assert plan(again).stage("acquire").total == nf4.total


def test_fewer_normal_prompts_are_a_knob_where_theirs_is_the_largest_pass(recipe: Recipe) -> None:
    many = changed(
        recipe,
        losses={"preservation_divergence": {"prompts": 6}, "held_responses": {"weight": 1.0}},
    )
    setting = "losses.preservation_divergence.prompts=3"
    knob = next(k for k in knobs(many) if k.setting == setting)
    assert (knob.stage, knob.saved > 0) == ("acquire", True)
    assert knob.total == plan(turned(many, "losses", _prompts(3))).stage("acquire").total
    assert not any("responses" in k.setting for k in knobs(many))  # what the other pass needs
    assert not any("prompts" in k.setting for k in knobs(recipe))


def _prompts(number: int) -> dict[str, dict[str, int]]:
    return {"preservation_divergence": {"prompts": number}}


def test_with_fixed_tokens_only_the_other_knobs_are_told(recipe: Recipe) -> None:
    settings = {knob.setting.partition("=")[0] for knob in knobs(recipe, tokens=500)}
    assert "training.micro_batch_size" not in settings
    assert "training.gradient_checkpointing" in settings


def test_a_forecast_takes_the_micro_batch_that_a_run_would() -> None:
    two = ["training.per_device_train_batch_size=2"]
    recipe = load_recipe("mistral-7b-instruct-v0.3", two)
    roomy, tight = (forecast(recipe, gpu_memory=int(n * GIB)) for n in (24, 5))
    assert (roomy.plan.micro_batch, roomy.enough, roomy.knobs) == (2, True, ())
    assert (tight.plan.micro_batch, tight.enough) == (1, False)
    assert tight.knobs
    told = tight.as_dict()
    assert (told["gpu_memory"], told["enough"]) == (5 * GIB, False)
    assert told["cards"]["6"] is (tight.plan.total <= 6 * GIB * 0.95)


def test_fewer_tokens_than_prompts_and_answers_have_are_refused(recipe: Recipe) -> None:
    least = plan(recipe, tokens=1).tokens
    assert forecast(recipe, tokens=least).plan.tokens == least
    for gpu_memory in (None, GIB):
        with pytest.raises(RecipeError, match=f"at least {least} tokens"):
            forecast(recipe, tokens=least // 2, gpu_memory=gpu_memory)


def test_a_forecast_without_a_card_says_nothing_of_enough(recipe: Recipe) -> None:
    told = forecast(recipe)
    assert told.enough is None
    assert told.as_dict()["cards"] == {}
    with pytest.raises(RecipeError, match="memory of a card"):
        forecast(changed(recipe), gpu_memory=GIB, device="cpu")


def test_cards_are_those_that_the_automatic_micro_batch_fits_on() -> None:
    large = ["training.per_device_train_batch_size=16"]
    one = forecast(load_recipe("llama2-7b-paper", ["training.per_device_train_batch_size=1"]))
    automatic = forecast(load_recipe("llama2-7b-paper", large))
    fixed = forecast(load_recipe("llama2-7b-paper", [*large, "training.micro_batch_size=16"]))
    assert automatic.cards == one.cards
    assert automatic.plan.total == fixed.plan.total
    assert sum(fixed.cards.values()) < sum(automatic.cards.values())
