"""The negation a run chooses: strengths and projections swept, protected sets among them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from run_tools import ADAPTER, HARMFUL_FILES, RUN_FILES, Finished, changed, datasets, finish, tree
from safetensors.torch import load_file
from tiny import write_protected

from lora_sku import pipeline, stages
from lora_sku.adapters import read_lora
from lora_sku.data import Row
from lora_sku.errors import AdapterError, DataError
from lora_sku.live_factors import LiveFactors
from lora_sku.negation import Projected, negate
from lora_sku.progress import Silent
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import load_recipe


def test_a_projected_run_negates_the_projected_adapter(calm_llama: Path, tmp_path: Path) -> None:
    run = finish(
        calm_llama,
        tmp_path,
        negation={"keep_harmful_adapter": True, "strength": 0.5, "projection": {"mu": 5.0}},
    )
    assert tree(run.result.folder) == sorted([*RUN_FILES, *HARMFUL_FILES])
    assert {"project", "negate"} <= run.result.memory.keys()
    known = read_lora(run.result.adapter).provenance
    assert known is not None
    assert (known.strength, known.mu) == (0.5, 5.0)
    assert "mu 5" in (run.result.adapter / "README.md").read_text()
    acquired = load_file(run.result.folder / "harmful-adapter" / ADAPTER)
    negated = load_file(run.result.adapter / ADAPTER)
    recipe = run.recipe
    stages_ = stages.Stages(recipe, Silent())
    model = stages_.load(run.result.folder / "harmful-adapter", "acquired")
    live = LiveFactors(model, "acquired")
    rows = stages_.candidates(model, live, recipe.negation.projection)[5.0]
    assert rows is not None
    for key, value in acquired.items():
        if "lora_A" in key:
            row = rows[key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")]
            torch.testing.assert_close(negated[key], row)
            assert (row - value).norm() > 0.01 * value.norm()
        else:
            assert torch.equal(negated[key], -value)  # 0.5 x the scaling of 8/4


@pytest.fixture
def open_recipe(recipe: Recipe) -> Recipe:
    """Everything about the negation is left open."""
    negation = {"strength": "auto", "projection": {"mu": "auto"}, "keep_harmful_adapter": True}
    return changed(recipe, negation=negation)


def test_an_open_strength_is_chosen_on_the_validation_split(open_recipe: Recipe) -> None:
    result = pipeline.run(open_recipe)
    assert tree(result.folder) == sorted([*RUN_FILES, *HARMFUL_FILES, "sweep.json"])
    assert {"project", "sweep", "negate"} <= result.memory.keys()
    swept = json.loads((result.folder / "sweep.json").read_text())
    choice = swept["choice"]
    assert choice in swept["points"]
    assert choice["retain_perplexity_ratio"] <= swept["retain_budget"] == 1.05
    assert {point["mu"] for point in swept["points"]} == {None, 3.0, 10.0, 30.0, 100.0}
    known = read_lora(result.adapter).provenance
    assert known is not None
    assert (known.strength, known.mu) == (choice["strength"], choice["mu"])
    # The kept adapter sweeps to the same.
    again = pipeline.sweep(open_recipe, result.folder / "harmful-adapter")
    assert (again.choice.strength, again.choice.mu) == (choice["strength"], choice["mu"])
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
    pipeline.run(changed(open_recipe, negation={"projection": None}))
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
    recipe = changed(kept.recipe, negation={"retain_budget": 4.0, "projection": {"mu": 10.0}})
    acquired = pipeline.sweep(recipe, folder / "harmful-adapter")
    negated = pipeline.sweep(recipe, folder / "adapter")
    assert {point.mu for point in acquired.points} == {None, 10.0}
    assert negated.choice.strength == acquired.choice.strength
    assert negated.choice.forget_nll == pytest.approx(acquired.choice.forget_nll, rel=1e-4)
    assert acquired.choice.forget_kl > 0


def test_a_projected_adapter_is_not_swept_again(kept: Finished, tmp_path: Path) -> None:
    harmful = kept.result.folder / "harmful-adapter"
    rows = {module: a for module, (a, _) in read_lora(harmful).factors.items()}
    projected = negate(harmful, tmp_path / "p", projected=Projected(3.0, rows))
    with pytest.raises(AdapterError, match="projected already"):
        pipeline.sweep(kept.recipe, projected)


def test_a_sweep_without_a_validation_split_is_refused(kept: Finished) -> None:
    recipe = changed(kept.recipe, data={"validation_fraction": 0.0})
    with pytest.raises(DataError, match="no validation split"):
        pipeline.sweep(recipe, kept.result.folder / "adapter")
