"""What every measured method is given: the same sections, tokenizer and drawn pairs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import nn

from lora_sku.devices import choose_compute_dtype, choose_device
from lora_sku.model import locate_base
from lora_sku.recipe import AdapterSection, BaseModelSection, LossesSection, Recipe, TrainingSection
from lora_sku.step import StepLosses


@dataclass(frozen=True)
class Setup:
    """One configuration of SKU; a method that trains all weights ignores the adapter.

    Attributes:
        base_model: The model, its quantization and compute dtype.
        adapter: The LoRA.
        losses: Weights of the three terms.
        training: Learning rate, clipping, optimizer, checkpointing, seed; the learning rate stays
            constant.
        strength: Multiple of the task vector that the negation takes away.
    """

    base_model: BaseModelSection
    adapter: AdapterSection
    losses: LossesSection
    training: TrainingSection
    strength: float = 1.0

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """The sections of a recipe; every method negates alike, so a strength to be found is 1."""
        strength = recipe.negation.strength
        return cls(
            recipe.base_model,
            recipe.adapter,
            recipe.losses,
            recipe.training,
            1.0 if strength == "auto" else strength,
        )

    @property
    def device(self) -> torch.device:
        """Where all methods run."""
        return choose_device(self.base_model)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the matrix products; of the weights too where these are not quantized."""
        return choose_compute_dtype(self.base_model, self.device)

    @property
    def folder(self) -> Path:
        """Folder with config.json and the safetensors files."""
        return locate_base(self.base_model)[1]


def update(
    parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, max_grad_norm: float
) -> None:
    """Clip, step, and free the gradients: the end of every method's step."""
    torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


class Method(Protocol):
    """One way to do SKU. Building it loads the model; the drawn pairs are known from the start."""

    def step(self, number: int) -> StepLosses:
        """One whole optimizer step on the pairs of that number, counted from 0."""
        ...

    def negate(self) -> None:
        """Stage 2, as this way does it."""
        ...
