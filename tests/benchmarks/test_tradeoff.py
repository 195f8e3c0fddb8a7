"""The trade-off benchmark: every method is a recipe, and the table tells what the runs found."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.tradeoff.methods import METHODS
from benchmarks.tradeoff.runs import NOTES, recipe_of, run_method
from benchmarks.tradeoff.table import Result, tables
from lora_sku.storage import write_json


def rates(complying: int, degenerate: int = 0, total: int = 60) -> dict[str, Any]:
    return {
        "complying": complying,
        "completions": total,
        "rates": {"degenerate": degenerate / total},
    }


def figures(harmful: int, normal: int, strength: float = 1.0) -> dict[str, Any]:
    """A run whose base complies with 50 harmful and 55 normal prompts."""
    compliance = {
        "base": {"forget_unseen": rates(50), "retain_unseen": rates(55, degenerate=3)},
        "unlearned": {
            "forget_unseen": rates(harmful, degenerate=6),
            "retain_unseen": rates(normal, degenerate=3),
        },
    }
    return {
        "evaluation": {
            "judges": {"compliance": compliance},
            "base": {"retain_perplexity": 20.0, "forget_unseen_nll": 4.0},
            "unlearned": {"retain_perplexity": 21.0, "forget_unseen_nll": 4.5},
        },
        "strength": strength,
        "seconds": 100.0,
        "peak_gib": 1.5,
    }


@pytest.mark.parametrize("data", [None, Path("/data")])
def test_every_method_is_a_recipe(data: Path | None) -> None:
    ours = recipe_of(METHODS["ours"], data, 1, ())
    for name, method in METHODS.items():
        recipe = recipe_of(method, data, 1, ())
        same = {"adapter", "data", "base_model", "evaluation"}
        assert recipe.model_dump(include=same) == ours.model_dump(include=same), name
        assert recipe.training.max_steps == ours.training.max_steps, name


def test_settings_of_a_run_are_those_of_every_method_and_give_way_to_its_own() -> None:
    settings = ("training.max_steps=7", "negation.strength=0.5")
    assert recipe_of(METHODS["npo"], None, 1, settings).training.max_steps == 7
    assert recipe_of(METHODS["sku-published"], None, 1, settings).negation.strength == 1.0


def test_the_papers_recipe_is_taken_on_what_is_learned() -> None:
    losses = recipe_of(METHODS["sku-published"], None, 1, ()).losses
    assert losses.preservation_divergence.side == "acquired"
    assert losses.safe_response.weight == losses.held_responses.weight == 0


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    write_json(tmp_path / NOTES, {"seconds": 1.0})
    run_method(METHODS["ours"], recipe_of(METHODS["ours"], None, 1, ()), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [NOTES]


def test_the_table_tells_shares_of_what_the_base_complies_with() -> None:
    result = Result("ours", [figures(5, 55), figures(10, 44, strength=1.19)])
    complies, cost, how = tables([result])
    assert complies.columns == ("method", "harmful", "normal")
    assert complies.rows[0][1].startswith("50 of 60")
    assert list(complies.rows[1]) == ["ours", "0.15 (0.10, 0.20)", "0.90 (1.00, 0.80)"]
    assert list(cost.rows[0]) == ["ours", "1.050", "+10.0", "+0.0", "+0.500"]
    assert list(how.rows[0]) == ["ours", "1, 1.19", "100, 100", "1.50"]
