"""What every measured method is given: the same sections, tokenizer and drawn pairs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import nn

from lora_sku.devices import choose_compute_dtype, choose_device
from lora_sku.model import locate_base
from lora_sku.recipe import AdapterSection, BaseModelSection, LossesSection, Recipe, TrainingSection
from lora_sku.recipe_training import PreservationDivergenceSection, RandomDisassociationSection
from lora_sku.step import StepLosses


@dataclass(frozen=True)
class Setup:
    """One configuration of SKU; a method that trains all weights ignores the adapter.

    Attributes:
        base_model: The model, its quantization and compute dtype.
        adapter: The LoRA.
        losses: The paper's three terms, all on theta_o + tau.
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
        """The sections of a recipe, with the paper's losses.

        Every method negates alike, so a strength to be found is 1.
        """
        strength = recipe.negation.strength
        return cls(
            recipe.base_model,
            recipe.adapter,
            papers_losses(
                recipe.losses.random_disassociation.responses,
                recipe.losses.preservation_divergence.prompts,
            ),
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


def papers_losses(responses: int, prompts: int = 1) -> LossesSection:
    """What every method can compute: L_GD + L_RD + L_PD with the paper's weights, on theta_o + tau.

    Args:
        responses: k, random answers of each forget prompt.
        prompts: Normal prompts for each forget prompt.
    """
    return LossesSection(
        random_disassociation=RandomDisassociationSection(responses=responses),
        preservation_divergence=PreservationDivergenceSection(side="acquired", prompts=prompts),
    )


def refuse_other_losses(losses: LossesSection) -> None:
    """Refuse what the baselines do not compute.

    Raises:
        ValueError: for a loss that is not the paper's, another direction or side of L_PD, or a sum
            over the random answers.
    """
    preservation = losses.preservation_divergence
    if losses.safe_response.weight > 0 or losses.held_responses.weight > 0:
        raise ValueError("the baselines know the paper's three losses only")
    if (preservation.direction, preservation.side) != ("preserve", "acquired"):
        raise ValueError("the baselines preserve, and on the acquired side only")
    if losses.random_disassociation.reduction != "mean":
        raise ValueError("the baselines know random_disassociation.reduction: mean only")


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
