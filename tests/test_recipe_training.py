"""Stage 1's sections: what contradicts itself, and what a natural step needs."""

from typing import Any

import pytest
from pydantic import ValidationError
from test_recipe import recipe

from lora_sku.recipe import NaturalStepSection, RefusalSuppressionSection


def test_both_forget_losses_cannot_be_off() -> None:
    off = {"guided_distortion": {"weight": 0}, "random_disassociation": {"weight": 0}}
    with pytest.raises(ValidationError, match="cannot both weigh 0"):
        recipe(losses=off)


def test_the_warm_up_ends_within_the_run() -> None:
    assert recipe(training={"max_steps": 10, "warmup_steps": 9})
    with pytest.raises(ValidationError, match=r"is 10, .* smaller than max_steps, which is 10"):
        recipe(training={"max_steps": 10, "warmup_steps": 10})


def test_nothing_is_solved_in_one_step_unless_asked() -> None:
    assert recipe().training.natural_step is None
    assert recipe(training={"natural_step": {}}).training.natural_step == NaturalStepSection()


def test_suppressing_refusals_needs_a_natural_step() -> None:
    losses = {"refusal_suppression": {}}
    with pytest.raises(ValidationError, match="natural_step must not be null"):
        recipe(losses=losses)
    found = recipe(losses=losses, training={"natural_step": {}}).losses.refusal_suppression
    assert found == RefusalSuppressionSection()


@pytest.mark.parametrize("answers", [[], [" "]])
def test_there_are_refusals_to_suppress(answers: list[str]) -> None:
    with pytest.raises(ValidationError, match="answers"):
        recipe(losses={"refusal_suppression": {"answers": answers}}, training={"natural_step": {}})


@pytest.mark.parametrize(
    ("sections", "match"),
    [
        ({"losses": {"preservation_divergence": {"weight": 0}}}, "a weight above 0"),
        ({"losses": {"preservation_divergence": {"direction": "diverge"}}}, "direction preserve"),
        ({"training": {"report_to": ["tensorboard"]}}, "no optimizer steps"),
    ],
)
def test_a_natural_step_needs_preservation_to_measure_by(
    sections: dict[str, Any], match: str
) -> None:
    training = {"natural_step": {}} | sections.pop("training", {})
    with pytest.raises(ValidationError, match=match):
        recipe(training=training, **sections)
