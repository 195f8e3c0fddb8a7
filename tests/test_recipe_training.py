"""Stage 1's sections: what contradicts itself."""

import pytest
from pydantic import ValidationError
from test_recipe import recipe


def test_both_forget_losses_cannot_be_off() -> None:
    off = {"guided_distortion": {"weight": 0}, "random_disassociation": {"weight": 0}}
    with pytest.raises(ValidationError, match="cannot both weigh 0"):
        recipe(losses=off)


def test_the_warm_up_ends_within_the_run() -> None:
    assert recipe(training={"max_steps": 10, "warmup_steps": 9})
    with pytest.raises(ValidationError, match=r"is 10, .* smaller than max_steps, which is 10"):
        recipe(training={"max_steps": 10, "warmup_steps": 10})
