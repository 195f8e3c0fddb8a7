"""The table for a person."""

import pytest

from lora_sku.planning import forecast
from lora_sku.planning.table import print_forecast
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import load_recipe

GIB = 2**30


def test_the_table_tells_parts_conditions_cards_and_knobs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = forecast(load_recipe("llama2-13b-paper"), gpu_memory=6 * GIB)
    print_forecast(told)
    text = capsys.readouterr().out
    for part in ("base weights", "optimizer state", "framework", "total", "acquire", "evaluate"):
        assert part in text
    assert f"{told.plan.total / GIB:.2f}" in text
    assert "upper bound" in text
    assert "Cards that it fits on, each less 5% for firmware and driver: 10 GB" in text
    assert "6.00 GiB is NOT enough." in text
    assert f"--set {told.knobs[0].setting}" in text
    assert "GiB, which is not enough either: choose a smaller base model." in text


def test_settings_that_are_enough_together_are_said_to_be(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = forecast(load_recipe("llama2-13b-paper"), gpu_memory=8 * GIB)
    assert told.together is not None
    assert told.together < min(knob.total for knob in told.knobs)
    print_forecast(told)
    assert f"{told.together / GIB:.2f} GiB, which is enough." in capsys.readouterr().out


def test_on_a_cpu_no_card_is_named(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    print_forecast(forecast(recipe, tokens=100))
    text = capsys.readouterr().out
    assert "on top of an empty process" in text
    assert "as --tokens says" in text
    assert "Cards" not in text
    assert "enough" not in text
