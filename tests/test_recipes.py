"""Every shipped recipe loads, and the paper's recipes say what the paper says."""

from pathlib import Path

import pytest
import yaml

from lora_sku.planning.cards import forecast
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import load_recipe, shipped_recipes
from lora_sku.sources import locate

FOLDER = Path(__file__).parents[1] / "recipes"
FILES = sorted(FOLDER.rglob("*.yaml"))
PAPER = ["opt-2.7b", "llama2-7b", "llama2-13b"]
CARD_OF_12_GB = ["llama3.1-8b-instruct", "qwen2.5-7b-instruct", "mistral-7b-instruct-v0.3"]


def test_there_are_recipes_and_each_is_offered_by_name() -> None:
    assert len(FILES) > 0
    assert sorted(shipped_recipes().values()) == FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_recipe_loads(path: Path) -> None:
    assert isinstance(load_recipe(path), Recipe)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_recipe_writes_to_a_run_directory_of_its_own_name(path: Path) -> None:
    assert load_recipe(path).output_dir == f"runs/{path.stem}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_recipe_says_why(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sum("#" in line for line in lines) >= 8
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipes_follow_the_paper(name: str) -> None:
    recipe = load_recipe(name)
    losses, training, data = recipe.losses, recipe.training, recipe.data
    assert losses.guided_distortion.weight == 2.5
    assert losses.random_disassociation.weight == 2.5
    assert losses.random_disassociation.responses == 5
    assert losses.preservation_divergence.weight == 1.0
    assert losses.preservation_divergence.direction == "preserve"
    assert training.max_steps == 1000
    assert training.learning_rate == 2e-4
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 2
    assert (training.optim, training.lr_scheduler_type) == ("adamw_torch", "linear")
    assert (training.warmup_steps, training.seed, data.seed) == (0, 8888, 8888)
    assert (data.forget.path, data.forget.format) == ("PKU-Alignment/PKU-SafeRLHF", "pku-saferlhf")
    assert (data.retain.path, data.retain.format) == ("truthfulqa/truthful_qa", "truthfulqa")
    assert (data.retain.name, data.retain.split) == ("generation", "validation")
    assert recipe.base_model.template == "### Question: {prompt}\n ### Answer: "
    assert recipe.negation.strength == 1.0


@pytest.mark.parametrize(
    ("name", "path", "r", "alpha"),
    [
        ("llama2-7b", "meta-llama/Llama-2-7b-hf", 32, 16),
        ("llama2-13b", "meta-llama/Llama-2-13b-hf", 16, 8),
    ],
)
def test_the_llama_2_adapters_are_the_papers(name: str, path: str, r: int, alpha: int) -> None:
    recipe = load_recipe(name)
    assert recipe.base_model.path == path
    assert (recipe.adapter.r, recipe.adapter.lora_alpha) == (r, alpha)
    assert recipe.adapter.target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize("name", CARD_OF_12_GB)
def test_the_instruct_recipes_stay_within_a_budget(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.losses == load_recipe("smollm2-135m").losses
    negation = recipe.negation
    assert (negation.strength, negation.retain_budget, negation.kl_budget) == ("auto", 1.05, 0.05)
    assert recipe.data.own_prompts is not None


@pytest.mark.parametrize("name", CARD_OF_12_GB)
def test_the_instruct_recipes_are_planned_for_12_gb(name: str) -> None:
    recipe = load_recipe(name)
    assert (recipe.base_model.quantization, recipe.base_model.template) == ("nf4", None)
    assert recipe.adapter.target_modules == "all-linear"
    assert recipe.training.gradient_checkpointing
    assert recipe.training.per_device_train_batch_size <= 2
    assert forecast(recipe).cards[12]
    assert "NOT tuned" in (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def test_the_smallest_recipe_needs_no_hub() -> None:
    recipe = load_recipe("smollm2-135m")
    paths = [recipe.base_model.path, recipe.data.forget.path, recipe.data.retain.path]
    assert all(path.startswith("package://") for path in paths)
    assert all(locate(path, kind="dataset").path.is_file() for path in paths[1:])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_plain_yaml_readers_see_the_same_numbers(path: Path) -> None:
    # Other tools read 2e-4 as text; the shipped files must not depend on our reading.
    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert Recipe.model_validate(plain, strict=False) == load_recipe(path)
    assert isinstance(plain["training"].get("learning_rate", 0.0), float)
