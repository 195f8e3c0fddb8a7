"""The recipe's sections: defaults, limits, and what contradicts itself."""

from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from lora_sku.recipe import (
    AdapterSection,
    Recipe,
    Section,
    differences,
)

SOURCE = {"path": "rows.jsonl", "format": "prompt-response"}
SMALLEST: dict[str, Any] = {
    "base_model": {"path": "org/model"},
    "data": {"forget": SOURCE, "retain": SOURCE},
    "output_dir": "runs/x",
}


def recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate(SMALLEST | sections)


def all_sections(section: type[BaseModel]) -> list[type[BaseModel]]:
    types = [field.annotation for field in section.model_fields.values()]
    inner = [kind for each in types for kind in (each, *get_args(each))]
    found = [each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)]
    return [section, *(deeper for each in found for deeper in all_sections(each))]


def test_the_defaults_are_the_papers() -> None:
    losses, training = recipe().losses, recipe().training
    assert losses.guided_distortion.weight == 2.5
    assert losses.random_disassociation.weight == 2.5
    assert losses.random_disassociation.responses == 5
    assert losses.preservation_divergence.weight == 1.0
    assert losses.preservation_divergence.direction == "preserve"
    assert (training.max_steps, training.learning_rate) == (1000, 2e-4)
    assert (training.per_device_train_batch_size, training.warmup_steps) == (2, 0)
    assert recipe().negation.strength == 1.0


def test_the_harmful_adapter_is_not_kept_unless_asked() -> None:
    assert recipe().negation.keep_harmful_adapter is False


@pytest.mark.parametrize("section", all_sections(Recipe), ids=lambda section: section.__name__)
def test_every_section_is_frozen_and_refuses_unknown_keys(section: type[BaseModel]) -> None:
    assert issubclass(section, Section)
    assert section.model_config.get("frozen") is True
    assert section.model_config.get("extra") == "forbid"


def test_a_recipe_cannot_be_changed_after_reading() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        recipe().training.max_steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("adapter", {"r": 0}),
        ("adapter", {"lora_alpha": 0}),
        ("adapter", {"lora_dropout": 1.0}),
        ("training", {"max_steps": 0}),
        ("training", {"learning_rate": 0}),
        ("training", {"learning_rate": float("inf")}),
        ("training", {"learning_rate": float("nan")}),
        ("training", {"weight_decay": -0.1}),
        ("negation", {"retain_budget": 1.0}),
        ("negation", {"kl_budget": 0}),
        ("negation", {"refusals_budget": 0}),
        ("negation", {"refusals_budget": 1.5}),
        ("negation", {"hard_negatives_budget": 0}),
        ("evaluation", {"prefill": " "}),
        ("losses", {"held_responses": {"weight": -1}}),
        ("losses", {"random_disassociation": {"reduction": "max"}}),
        ("losses", {"preservation_divergence": {"side": "base"}}),
        ("losses", {"preservation_divergence": {"weight": -1}}),
        ("losses", {"preservation_divergence": {"direction": "minimise"}}),
        ("base_model", {"path": "x", "quantization": "nf8"}),
    ],
)
def test_a_value_outside_its_limits_is_refused(section: str, values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        recipe(**{section: values})
    assert caught.value.error_count() == 1


@pytest.mark.parametrize("value", [0, -1, float("inf"), "much"])
def test_a_strength_is_positive_or_auto(value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        recipe(negation={"strength": value})
    assert {error["loc"][:2] for error in caught.value.errors()} == {("negation", "strength")}


def test_a_sweep_needs_a_validation_split() -> None:
    data = SMALLEST["data"] | {"validation_fraction": 0}
    assert recipe(data=data)
    with pytest.raises(ValidationError, match="needs a validation split"):
        recipe(data=data, negation={"strength": "auto"})


def test_a_weight_of_zero_switches_one_forget_loss_off() -> None:
    assert recipe(losses={"random_disassociation": {"weight": 0}})


@pytest.mark.parametrize("template", ["no place for it", "{prompt} and {prompt}", "{Prompt}"])
def test_a_template_names_the_prompt_once(template: str) -> None:
    with pytest.raises(ValidationError, match="exactly once"):
        recipe(base_model={"path": "x", "template": template})


def test_the_splits_must_leave_something_to_train_on() -> None:
    data = {"validation_fraction": 0.5, "unseen_fraction": 0.5}
    with pytest.raises(ValidationError, match="must stay below 1"):
        recipe(data=SMALLEST["data"] | data)


def test_differences_name_each_key_with_both_values() -> None:
    one = recipe(training={"max_steps": 10})
    other = recipe(training={"max_steps": 11}, negation={"strength": 2})
    assert differences(one.model_dump(), one.model_dump()) == []
    assert differences(one.model_dump(), other.model_dump()) == [
        "training.max_steps was 10 and is now 11",
        "negation.strength was 1.0 and is now 2.0",
    ]


def test_differences_tell_of_sets_that_came_or_went() -> None:
    one = {"protect": {"shop": {"answers": "given"}}}
    other = {"protect": {"law": {"answers": "given"}}}
    assert differences(one, other) == [
        "protect.shop was {'answers': 'given'} and is now None",
        "protect.law was None and is now {'answers': 'given'}",
    ]


@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "v_proj"]])
def test_target_modules_are_all_linear_or_names(modules: Any) -> None:
    section = AdapterSection(target_modules=modules)
    assert section.target_modules == (modules if isinstance(modules, str) else tuple(modules))


@pytest.mark.parametrize(
    "values", [{"use_dora": True}, {"bias": "lora_only"}, {"modules_to_save": ["lm_head"]}]
)
def test_an_adapter_that_cannot_be_negated_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="cannot be negated"):
        AdapterSection.model_validate(values)


@pytest.mark.parametrize("initialisation", [False, "pissa", "olora", "eva"])
def test_only_initialisations_with_a_zero_delta_may_train(initialisation: bool | str) -> None:
    # False starts with a random B, so theta_0 would not be theta_o; eva needs data at the start.
    with pytest.raises(ValidationError, match="init_lora_weights"):
        AdapterSection(init_lora_weights=initialisation)


def test_the_gaussian_initialisation_may_train() -> None:
    assert AdapterSection(init_lora_weights="gaussian").init_lora_weights == "gaussian"


def test_a_strength_is_bounded_by_what_normal_prompts_may_lose() -> None:
    negation = recipe().negation
    assert (negation.retain_budget, negation.kl_budget) == (1.03, None)
    assert (negation.refusals_budget, negation.hard_negatives_budget) == (0.03, 0.1)
    off = recipe(negation={"refusals_budget": None, "hard_negatives_budget": None}).negation
    assert (off.refusals_budget, off.hard_negatives_budget) == (None, None)


def test_harm_of_other_kinds_is_never_trained_on() -> None:
    assert recipe().evaluation.other_harm is None
    assert recipe(evaluation={"other_harm": SOURCE}).evaluation.other_harm is not None
    with pytest.raises(ValidationError, match="answers must be given"):
        recipe(evaluation={"other_harm": SOURCE | {"answers": "both"}})


def test_an_answer_is_begun_unless_that_is_switched_off() -> None:
    assert recipe().evaluation.prefill == "Sure, here is how"
    assert recipe(evaluation={"prefill": None}).evaluation.prefill is None


def test_lookalikes_are_on_unless_switched_off_and_never_trained_on() -> None:
    lookalikes = recipe().evaluation.lookalikes
    assert lookalikes is not None
    assert lookalikes.path == "package://lora_sku/demo/lookalikes.jsonl"
    assert recipe(evaluation={"lookalikes": None}).evaluation.lookalikes is None
    with pytest.raises(ValidationError, match="answers must be given"):
        recipe(evaluation={"lookalikes": SOURCE | {"answers": "own"}})
