"""Every shipped recipe loads, and the paper's recipes say what the paper says."""

from pathlib import Path

import pytest
import yaml

from lora_sku.budget import refuse_too_few
from lora_sku.data import load_data
from lora_sku.planning.cards import forecast
from lora_sku.recipe import NegationSection, Recipe
from lora_sku.recipe_file import load_recipe, shipped_recipes
from lora_sku.sources import locate
from lora_sku.stages import budget

FOLDER = Path(__file__).parents[1] / "recipes"
FILES = sorted(FOLDER.rglob("*.yaml"))
PAPER = ["opt-2.7b", "llama2-7b-paper", "llama2-13b-paper"]
INSTRUCT = ["llama3.1-8b-instruct", "qwen2.5-7b-instruct", "mistral-7b-instruct-v0.3"]
CARD_OF_12_GB = ["llama2-7b", *INSTRUCT]


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
    assert losses.random_disassociation.reduction == "sum"  # its formula
    assert losses.preservation_divergence.weight == 1.0
    assert losses.preservation_divergence.side == "acquired"
    assert (losses.safe_response.weight, losses.held_responses.weight) == (0, 0)
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
        ("llama2-7b-paper", "meta-llama/Llama-2-7b-hf", 32, 16),
        ("llama2-13b-paper", "meta-llama/Llama-2-13b-hf", 16, 8),
    ],
)
def test_the_llama_2_adapters_are_the_papers(name: str, path: str, r: int, alpha: int) -> None:
    recipe = load_recipe(name)
    assert recipe.base_model.path == path
    assert (recipe.adapter.r, recipe.adapter.lora_alpha) == (r, alpha)
    assert recipe.adapter.target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize("name", CARD_OF_12_GB)
def test_recipes_for_one_card_choose_their_strength_within_the_budgets(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.losses == load_recipe(CARD_OF_12_GB[0]).losses
    held = recipe.losses
    assert min(held.safe_response.weight, held.held_responses.weight) > 0
    assert held.preservation_divergence.side == "negated"
    assert recipe.negation == NegationSection(strength="auto")  # every bound as by default
    assert recipe.data.own_prompts is not None
    assert recipe.data.hard_negatives is not None


@pytest.mark.parametrize("name", CARD_OF_12_GB)
def test_recipes_for_one_card_are_planned_for_12_gb(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.base_model.quantization == "nf4"
    assert (recipe.base_model.template is None) == (name in INSTRUCT)
    assert recipe.adapter.target_modules == "all-linear"
    assert recipe.training.gradient_checkpointing
    assert forecast(recipe).cards[12]
    assert "NOT tuned" in (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def test_the_smallest_recipes_validation_splits_are_large_enough_for_its_budgets() -> None:
    recipe = load_recipe("smollm2-135m")
    data, most = load_data(recipe.data, None), recipe.evaluation.max_prompts
    prompts = {name: len(splits.validation[:most]) for name, splits in data.normal.items()}
    refuse_too_few(budget(recipe.negation), prompts)


def test_the_smallest_recipe_needs_no_hub() -> None:
    recipe = load_recipe("smollm2-135m")
    sets = [recipe.data.forget, recipe.data.retain, recipe.data.hard_negatives]
    sets += [recipe.evaluation.lookalikes, recipe.evaluation.other_harm]
    paths = [recipe.base_model.path, *(section.path for section in sets if section is not None)]
    assert len(paths) == 6
    assert all(path.startswith("package://") for path in paths)
    assert all(locate(path, kind="dataset").path.is_file() for path in paths[1:])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_plain_yaml_readers_see_the_same_numbers(path: Path) -> None:
    # Other tools read 2e-4 as text; the shipped files must not depend on our reading.
    plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert Recipe.model_validate(plain, strict=False) == load_recipe(path)
    assert isinstance(plain["training"].get("learning_rate", 0.0), float)
