"""Recipes' plans: every shipped one, without weights and without a network."""

from pathlib import Path

import pytest
from run_tools import changed
from tiny import llama_config, make_tokenizer

from lora_sku.planning import largest_micro_batch, plan
from lora_sku.planning.recipe_plan import recipe_setup, turned
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import load_recipe

FILES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
GIB = 2**30
# Aims at r = 16, every linear layer, 1,024 tokens in flight: tensors, and all with one decimal.
BUDGET = {"llama2-7b-paper": (5.0, 5.1), "llama2-13b-paper": (8.5, 8.7)}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_there_are_recipes() -> None:
    assert len(FILES) > 0


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_recipe_plans(path: Path, device: str) -> None:
    recipe = load_recipe(path)
    planned = plan(recipe, device=device)  # type: ignore[arg-type]
    assert planned.model == recipe.base_model.path
    assert planned.upper_bound
    swept = ["sweep"] if recipe.negation.strength == "auto" else []
    stages = ["acquire", *swept, "evaluate"]
    if recipe.data.own_prompts is not None:
        stages = ["elicit", *stages]
    assert [stage.stage for stage in planned.stages] == stages
    for stage in planned.stages:
        assert all(line.bytes >= 0 for line in stage.lines)
        assert stage.total > stage.bytes_of("base weights") > 0


@pytest.mark.parametrize("name", BUDGET)
def test_ours_stays_within_its_aims(name: str) -> None:
    overrides = [
        "adapter.r=16",
        "adapter.target_modules=all-linear",
        "training.optim=auto",
        "training.per_device_train_batch_size=1",
        "losses.preservation_divergence={side: both, prompts: 2}",
        "losses.safe_response.weight=1",
        "losses.held_responses.weight=6",
    ]
    stage = plan(load_recipe(name, overrides), tokens=1024).stage("acquire")
    tensors, total = BUDGET[name]
    assert stage.tensors <= tensors * GIB
    assert round(stage.total / GIB, 1) <= total


def test_the_largest_micro_batch_fits_and_the_next_does_not(recipe: Recipe) -> None:
    eight = changed(recipe, training={"per_device_train_batch_size": 8})
    needs = [plan(eight, micro_batch=m).stage("acquire").total for m in range(1, 9)]
    assert needs == sorted(needs)
    assert largest_micro_batch(eight, needs[4]) == 5
    assert largest_micro_batch(eight, needs[4] - 1) == 4
    assert largest_micro_batch(eight, 10**12) == 8
    assert largest_micro_batch(eight, 1) == 1


def test_the_optimizer_is_the_one_that_the_device_gets(recipe: Recipe) -> None:
    assert recipe_setup(recipe, "cpu").optimizer == "adamw_torch"
    assert recipe_setup(recipe, "cuda").optimizer == "paged_adamw_8bit"
    asked = changed(recipe, training={"optim": "adamw_torch"})
    assert recipe_setup(asked, "cuda").optimizer == "adamw_torch"


def test_any_local_model_is_planned_from_its_configuration(recipe: Recipe, tmp_path: Path) -> None:
    config = llama_config(num_hidden_layers=1)
    config.save_pretrained(tmp_path / "bare")  # no weights at all
    make_tokenizer().save_pretrained(tmp_path / "bare")
    bare = changed(recipe, base_model={"path": str(tmp_path / "bare"), "quantization": "nf4"})
    assert plan(bare).total > 0


def test_own_answers_are_planned_as_the_evaluations_answers_are() -> None:
    recipe = load_recipe("smollm2-135m", ["data.forget.answers=own"])
    planned = plan(recipe, device="cpu")
    assert planned.stages[0].stage == "elicit"
    assert planned.stage("elicit").total <= planned.stage("acquire").total
    longer = changed(recipe, data={"own_answers": {"max_new_tokens": 2000}})
    assert plan(longer, device="cpu").stage("elicit").total > planned.stage("elicit").total
    same = changed(
        recipe,
        data={"own_answers": {"max_new_tokens": recipe.evaluation.max_new_tokens}},
        evaluation={"prefill": None},
    )
    again = plan(same, device="cpu")
    assert again.stage("elicit").total == again.stage("evaluate").total


def test_what_is_put_in_the_models_mouth_counts_as_prompt(recipe: Recipe) -> None:
    many = {"per_device_eval_batch_size": 64}
    with_, without = (
        plan(changed(recipe, evaluation={**many, "prefill": text})).stage("evaluate")
        for text in ("Sure, here is how", None)
    )
    assert with_.total > without.total


def test_a_sweep_counts_its_short_answers(recipe: Recipe) -> None:
    auto = changed(
        recipe, negation={"strength": "auto"}, evaluation={"max_new_tokens": 1, "prefill": None}
    )
    long = changed(auto, evaluation={"max_new_tokens": 2000})
    (short_sweep, short), (long_sweep, longer) = (
        (planned.stage("sweep").total, planned.stage("evaluate").total)
        for planned in (plan(auto), plan(long))
    )
    assert short_sweep == long_sweep
    assert short < longer


def test_a_nested_value_is_turned_and_those_beside_it_stay(recipe: Recipe) -> None:
    recipe = changed(recipe, losses={"random_disassociation": {"weight": 0.5, "responses": 2}})
    losses = turned(recipe, "losses", {"random_disassociation": {"responses": 1}}).losses
    random = losses.random_disassociation
    assert (random.weight, random.responses) == (0.5, 1)
    assert losses.guided_distortion == recipe.losses.guided_distortion
