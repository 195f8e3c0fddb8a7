"""The strength a run chooses: swept on the validation splits, protected sets among them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from run_tools import (
    ADAPTER,
    HARMFUL_FILES,
    RUN_FILES,
    Finished,
    changed,
    datasets,
    tree,
    with_everything,
)
from safetensors.torch import load_file
from tiny import FURTHER, write_protected

from lora_sku import pipeline, stages
from lora_sku.adapters import read_lora
from lora_sku.data import Row
from lora_sku.errors import DataError
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import load_recipe
from lora_sku.sweep import Point


@pytest.fixture
def open_recipe(recipe: Recipe) -> Recipe:
    """The strength is left open; of a single validation prompt none may be refused."""
    budgets = {"refusals_budget": 0.9, "hard_negatives_budget": 0.9}
    return changed(recipe, negation={"strength": "auto", "keep_harmful_adapter": True, **budgets})


def test_an_open_strength_is_chosen_on_the_validation_split(open_recipe: Recipe) -> None:
    result = pipeline.run(open_recipe)
    assert tree(result.folder) == sorted([*RUN_FILES, *HARMFUL_FILES, "sweep.json"])
    assert {"sweep", "negate"} <= result.memory.keys()
    swept = json.loads((result.folder / "sweep.json").read_text())
    choice = swept["choice"]
    assert choice in swept["points"]
    assert choice["costs"]["retain"]["perplexity_ratio"] <= 1.03
    assert choice["costs"]["retain"]["refused"] == 0
    assert swept["budget"] == {
        "perplexity_ratio": 1.03,
        "first_kl": None,
        "refused": 0.9,
        "hard_negatives_refused": 0.9,
        "confidence": 0.95,
    }
    assert choice["forget_nll"] > swept["base"]["forget_nll"]
    known = read_lora(result.adapter).provenance
    assert known is not None
    assert known.strength == choice["strength"]
    # The kept adapter sweeps to the same.
    again = pipeline.sweep(open_recipe, result.folder / "harmful-adapter")
    assert again.choice.strength == choice["strength"]
    assert len(again.points) == len(swept["points"])


def test_the_sweep_reads_the_validation_splits(
    open_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[tuple[tuple[Row, ...], dict[str, Any]]] = []
    confirmed: list[Any] = []
    scorer, confirmation = stages.AnswerScorer, stages.Confirmation

    def spy(model: Any, encoder: Any, rows: Any, **keys: Any) -> Any:
        scored.append((tuple(rows), keys))
        return scorer(model, encoder, rows, **keys)

    def spy_on_confirmation(model: Any, encoder: Any, *rows: Any, **keys: Any) -> Any:
        confirmed.append(rows)
        return confirmation(model, encoder, *rows, **keys)

    monkeypatch.setattr(stages, "AnswerScorer", spy)
    monkeypatch.setattr(stages, "Confirmation", spy_on_confirmation)
    recipe = with_everything(open_recipe, tmp_path)
    result = pipeline.run(recipe)
    data = datasets(recipe)
    normal = {name: splits.validation for name, splits in data.normal.items()}
    assert list(normal) == ["retain", "sums", "hard_negatives"]
    assert [rows for rows, _ in scored] == [data.forget.validation, *normal.values()]
    assert confirmed == [(data.forget.validation, normal)]
    # All safe responses are looked for behind every prompt.
    safe = {*recipe.losses.safe_response.answers, *FURTHER["safe_responses"].values()}
    assert all(set(keys["safe"]) == safe for _, keys in scored)
    swept = json.loads((result.folder / "sweep.json").read_text())
    assert list(swept["choice"]["costs"]) == list(normal)
    assert [cost["prompts"] for cost in swept["choice"]["costs"].values()] == [1, 1, 1]


def test_at_most_max_prompts_are_swept(open_recipe: Recipe) -> None:
    few = changed(open_recipe, data={"validation_fraction": 0.4}, evaluation={"max_prompts": 2})
    swept = json.loads((pipeline.run(few).folder / "sweep.json").read_text())
    assert swept["choice"]["prompts"] == swept["choice"]["costs"]["retain"]["prompts"] == 2


def test_generations_have_the_last_word(
    open_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []

    def refuses(self: Any, point: Point) -> Point:
        asked.append(point.strength)
        many = int(point.strength > 0.5)
        return replace(point, costs=tuple(replace(cost, refused=many) for cost in point.costs))

    monkeypatch.setattr(stages.Confirmation, "__call__", refuses)
    result = pipeline.run(open_recipe)
    known = read_lora(result.adapter).provenance
    assert known is not None
    assert known.strength == asked[-1] <= 0.5


def test_protected_sets_are_trained_on_swept_and_evaluated(
    open_recipe: Recipe, tmp_path: Path
) -> None:
    protected = changed(
        open_recipe, data={"protect": write_protected(tmp_path)}, output_dir=str(tmp_path / "p")
    )
    plain, result = pipeline.run(open_recipe), pipeline.run(protected)
    trained = [load_file(r.folder / "harmful-adapter" / ADAPTER) for r in (plain, result)]
    assert not all(torch.equal(value, trained[1][key]) for key, value in trained[0].items())
    swept = json.loads((result.folder / "sweep.json").read_text())
    assert swept["choice"]["costs"]["sums"]["perplexity_ratio"] <= 1.03
    told = json.loads((result.folder / "evaluation.json").read_text())
    assert told["protected"]["sums"]["perplexity_ratio"] > 0
    assert told["counts"]["protect_sums_unseen_prompts"] == 2
    assert "unseen prompts of sums" in (result.adapter / "README.md").read_text()
    # The recipe as resolved is enough to go on.
    pipeline.run(load_recipe(result.folder / "recipe.yaml"), resume=True)


def test_a_negated_adapter_is_swept_like_the_acquired_one(kept: Finished) -> None:
    folder = kept.result.folder
    recipe = changed(kept.recipe, negation={"retain_budget": 4.0, "refusals_budget": None})
    acquired = pipeline.sweep(recipe, folder / "harmful-adapter")
    negated = pipeline.sweep(recipe, folder / "adapter")
    assert negated.choice.strength == acquired.choice.strength
    assert negated.choice.forget_nll == pytest.approx(acquired.choice.forget_nll, rel=1e-4)
    assert acquired.choice.forget_kl > 0


def test_a_sweep_on_too_few_prompts_is_refused_before_any_is_scored(
    kept: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "AnswerScorer", None)
    with pytest.raises(DataError, match=r"refusals_budget: .* 1 validation prompts of retain"):
        pipeline.sweep(kept.recipe, kept.result.folder / "adapter")


def test_a_sweep_without_a_validation_split_is_refused(kept: Finished) -> None:
    recipe = changed(kept.recipe, data={"validation_fraction": 0.0})
    with pytest.raises(DataError, match="no validation split"):
        pipeline.sweep(recipe, kept.result.folder / "adapter")
