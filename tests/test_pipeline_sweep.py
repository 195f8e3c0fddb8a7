"""The strength a run chooses: swept on the validation splits, protected sets among them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from run_tools import ADAPTER, HARMFUL_FILES, RUN_FILES, Finished, changed, datasets, tree
from safetensors.torch import load_file
from tiny import write_protected

from lora_sku import pipeline, stages
from lora_sku.adapters import read_lora
from lora_sku.data import Row
from lora_sku.errors import DataError
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import load_recipe


@pytest.fixture
def open_recipe(recipe: Recipe) -> Recipe:
    """The strength is left open."""
    return changed(recipe, negation={"strength": "auto", "keep_harmful_adapter": True})


def test_an_open_strength_is_chosen_on_the_validation_split(open_recipe: Recipe) -> None:
    result = pipeline.run(open_recipe)
    assert tree(result.folder) == sorted([*RUN_FILES, *HARMFUL_FILES, "sweep.json"])
    assert {"sweep", "negate"} <= result.memory.keys()
    swept = json.loads((result.folder / "sweep.json").read_text())
    choice = swept["choice"]
    assert choice in swept["points"]
    assert choice["retain_perplexity_ratio"] <= swept["retain_budget"] == 1.05
    known = read_lora(result.adapter).provenance
    assert known is not None
    assert known.strength == choice["strength"]
    # The kept adapter sweeps to the same.
    again = pipeline.sweep(open_recipe, result.folder / "harmful-adapter")
    assert again.choice.strength == choice["strength"]
    assert len(again.points) == len(swept["points"])


def test_the_sweep_reads_the_validation_splits(
    open_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[tuple[Row, ...]] = []
    real = stages.AnswerScorer

    def spy(model: Any, encoder: Any, rows: Any, **keys: Any) -> Any:
        scored.append(tuple(rows))
        return real(model, encoder, rows, **keys)

    monkeypatch.setattr(stages, "AnswerScorer", spy)
    pipeline.run(open_recipe)
    data = datasets(open_recipe)
    assert scored == [data.forget.validation, data.retain.validation]


def test_protected_sets_are_swept_and_evaluated_but_not_trained_on(
    open_recipe: Recipe, tmp_path: Path
) -> None:
    protected = changed(
        open_recipe, data={"protect": write_protected(tmp_path)}, output_dir=str(tmp_path / "p")
    )
    plain, result = pipeline.run(open_recipe), pipeline.run(protected)
    trained = [load_file(r.folder / "harmful-adapter" / ADAPTER) for r in (plain, result)]
    assert all(torch.equal(value, trained[1][key]) for key, value in trained[0].items())
    swept = json.loads((result.folder / "sweep.json").read_text())
    assert swept["choice"]["protected"]["sums"]["perplexity_ratio"] <= 1.05
    told = json.loads((result.folder / "evaluation.json").read_text())
    assert told["protected"]["sums"]["perplexity_ratio"] > 0
    assert told["counts"]["protect_sums_unseen_prompts"] == 2
    assert "unseen prompts of sums" in (result.adapter / "README.md").read_text()
    # The recipe as resolved is enough to go on.
    pipeline.run(load_recipe(result.folder / "recipe.yaml"), resume=True)


def test_a_negated_adapter_is_swept_like_the_acquired_one(kept: Finished) -> None:
    folder = kept.result.folder
    recipe = changed(kept.recipe, negation={"retain_budget": 4.0})
    acquired = pipeline.sweep(recipe, folder / "harmful-adapter")
    negated = pipeline.sweep(recipe, folder / "adapter")
    assert negated.choice.strength == acquired.choice.strength
    assert negated.choice.forget_nll == pytest.approx(acquired.choice.forget_nll, rel=1e-4)
    assert acquired.choice.forget_kl > 0


def test_a_sweep_without_a_validation_split_is_refused(kept: Finished) -> None:
    recipe = changed(kept.recipe, data={"validation_fraction": 0.0})
    with pytest.raises(DataError, match="no validation split"):
        pipeline.sweep(recipe, kept.result.folder / "adapter")
