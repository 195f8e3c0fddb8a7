"""A recipe's plan: its sections become a setup and stages."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal

import torch

from lora_sku.architectures import find_config
from lora_sku.confirmation import NEW_TOKENS
from lora_sku.devices import choose_compute_dtype
from lora_sku.planning.layers import Tokens, heeds_layouts
from lora_sku.planning.passes import Pass
from lora_sku.planning.plan import (
    Answering,
    Plan,
    Setup,
    StagePlan,
    plan_scoring,
    plan_training,
)
from lora_sku.planning.recipe_passes import Lengths, load_of, stage_1_passes
from lora_sku.planning.shapes import ModelShape, model_shape
from lora_sku.planning.statics import Optimizer
from lora_sku.recipe import BaseModelSection, Recipe, TrainingSection

Device = Literal["cuda", "cpu"]


def plan(
    recipe: Recipe,
    *,
    device: Device | None = None,
    tokens: int | None = None,
    micro_batch: int | None = None,
) -> Plan:
    """Predict a run's peak memory from its recipe: no weights, no network, no GPU.

    Args:
        recipe: The run.
        device: Where it would run; None is the recipe's, and CUDA where the recipe leaves it open.
        tokens: Tokens in flight in the largest pass of training, answers in the recipe's
            proportion; None takes the longest prompts and answers that the recipe allows, an upper
            bound.
        micro_batch: Forget prompts at once; None takes the recipe's, and where that is "auto" all
            of per_device_train_batch_size.

    Raises:
        UserError: if the model's configuration is not here, or cannot be adapted soundly.
    """
    device = device or planned_device(recipe.base_model)
    setup = recipe_setup(recipe, device)
    shape = _shape(recipe.base_model, setup.dtype)
    prompts = micro_batch or _micro_batch(recipe.training)
    packs = heeds_layouts(shape)
    lengths, passes = stage_1_passes(recipe, prompts, tokens, packs=packs)
    return Plan(
        model=recipe.base_model.path,
        device=device,
        micro_batch=prompts,
        tokens=max(work.load.count for work in passes),
        upper_bound=tokens is None,
        stages=(
            *_stages_before(recipe, shape, setup, lengths),
            plan_training(shape, setup, passes),
            *_stages_after(recipe, shape, setup, lengths, packs=packs),
        ),
    )


def _stages_before(
    recipe: Recipe, shape: ModelShape, setup: Setup, lengths: Lengths
) -> Iterator[StagePlan]:
    """The base's own answers are drawn and judged as the evaluation's are."""
    if recipe.data.asks_the_base:
        drawn = recipe.data.own_prompts
        longest = max(recipe.data.own_answers.max_new_tokens, drawn.max_new_tokens if drawn else 0)
        yield _scored("elicit", recipe, shape, setup, lengths, longest)


def _stages_after(
    recipe: Recipe, shape: ModelShape, setup: Setup, lengths: Lengths, *, packs: bool
) -> Iterator[StagePlan]:
    """The sweep, whose answers may share a prompt's row, and the evaluation."""
    if recipe.negation.strength == "auto":
        yield _scored("sweep", recipe, shape, setup, lengths, NEW_TOKENS, packs=packs)
    settings = recipe.evaluation
    # What is put in the model's mouth stands behind the prompt; a token has at least one byte.
    begun = min(len((settings.prefill or "").encode()), lengths.answer)
    new = settings.max_new_tokens
    yield _scored("evaluate", recipe, shape, setup, lengths, new, begun=begun)


def _scored(
    stage: str,
    recipe: Recipe,
    shape: ModelShape,
    setup: Setup,
    lengths: Lengths,
    new_tokens: int,
    *,
    begun: int = 0,
    packs: bool = False,
) -> StagePlan:
    """A stage that scores answers and gets new ones."""
    rows = recipe.evaluation.per_device_eval_batch_size
    load = load_of(lengths, rows, 1, packs=packs)
    scoring = Pass("scoring", load, (rows * lengths.answer,), "kl")
    prompts = Tokens(rows, lengths.prompt + begun, masked=True)
    return plan_scoring(stage, shape, setup, scoring, Answering(prompts, new_tokens))


def largest_micro_batch(recipe: Recipe, budget_bytes: int, *, device: Device | None = None) -> int:
    """The most forget prompts at once whose planned stage 1 fits into ``budget_bytes``.

    From 1 to per_device_train_batch_size; 1 also where not even that is planned to fit. The budget
    is compared with the whole plan, the CUDA context included.
    """
    for prompts in range(recipe.training.per_device_train_batch_size, 1, -1):
        if plan(recipe, device=device, micro_batch=prompts).stage("acquire").total <= budget_bytes:
            return prompts
    return 1


def planned_device(section: BaseModelSection) -> Device:
    """Where a recipe is planned to run if nobody says; the same on every machine."""
    return "cpu" if section.device == "cpu" else "cuda"


def recipe_setup(recipe: Recipe, device: Device) -> Setup:
    """The recipe's sections as a setup."""
    adapter, training = recipe.adapter, recipe.training
    return Setup(
        device=device,
        quantization=recipe.base_model.quantization,
        dtype=_compute_dtype(recipe.base_model, device),
        rank=adapter.r,
        targets=adapter.target_modules,
        layers=adapter.layers_to_transform,
        checkpointing=training.gradient_checkpointing,
        optimizer=_optimizer(training, device),
        dropout=adapter.lora_dropout,
    )


def turned(recipe: Recipe, section: str, values: Mapping[str, Any]) -> Recipe:
    """The recipe with some of a section's values replaced, those beside them kept."""
    dumped = recipe.model_dump()
    dumped[section] = _merged(dumped[section], values)
    return Recipe.model_validate(dumped)


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    nested = {
        key: _merged(old[key], value)
        for key, value in new.items()
        if isinstance(value, Mapping) and isinstance(old[key], Mapping)
    }
    return {**old, **new, **nested}


def _micro_batch(training: TrainingSection) -> int:
    most = training.per_device_train_batch_size
    return most if training.micro_batch_size == "auto" else min(training.micro_batch_size, most)


def _optimizer(training: TrainingSection, device: Device) -> Optimizer:
    if device == "cpu":
        return "adamw_torch"
    return "paged_adamw_8bit" if training.optim == "auto" else training.optim


def _compute_dtype(section: BaseModelSection, device: Device) -> torch.dtype:
    """As `choose_compute_dtype`, but for a card that need not be here: those compute in bf16."""
    if section.compute_dtype == "auto" and device == "cuda":
        return torch.bfloat16
    return choose_compute_dtype(section, torch.device("cpu"))


@lru_cache(maxsize=8)
def _shape(section: BaseModelSection, dtype: torch.dtype) -> ModelShape:
    return model_shape(find_config(section), section.path, dtype, section.quantization)
