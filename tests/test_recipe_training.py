"""Stage 1's sections: what contradicts itself."""

from typing import Any

import pytest
from pydantic import ValidationError
from test_recipe import recipe

from lora_sku.judges import classify


def test_something_must_be_learned() -> None:
    off = {"guided_distortion": {"weight": 0}, "random_disassociation": {"weight": 0}}
    with pytest.raises(ValidationError, match="cannot all weigh 0"):
        recipe(losses=off)
    with pytest.raises(ValidationError, match="cannot all weigh 0"):
        recipe(losses=off | {"held_responses": {"weight": 1.0}})  # that holds, and teaches nothing
    assert recipe(losses=off | {"safe_response": {"weight": 0.1}})


def test_what_is_this_projects_own_is_off_unless_asked() -> None:
    losses = recipe().losses
    assert (losses.safe_response.weight, losses.held_responses.weight) == (0.0, 0.0)
    assert losses.safe_response.begun == 0.0
    assert losses.preservation_divergence.side == "negated"
    assert losses.random_disassociation.reduction == "mean"


def test_the_default_safe_responses_are_refusals_of_their_own_wording() -> None:
    answers = recipe().losses.safe_response.answers
    assert len(set(answers)) == len(answers) >= 4
    assert all(classify(answer) == "refusal" for answer in answers)


@pytest.mark.parametrize(
    "values",
    [
        {"answers": []},
        {"answers": ["No.", " "]},
        {"first_tokens_weight": 0},
        {"begun": 1.0},
        {"begun": -0.1},
        {"weight": -1},
    ],
)
def test_safe_responses_outside_their_limits_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        recipe(losses={"safe_response": values})
    assert caught.value.error_count() == 1


def test_the_warm_up_ends_within_the_run() -> None:
    assert recipe(training={"max_steps": 10, "warmup_steps": 9})
    with pytest.raises(ValidationError, match=r"is 10, .* smaller than max_steps, which is 10"):
        recipe(training={"max_steps": 10, "warmup_steps": 10})
