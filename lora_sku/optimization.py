"""The optimizer of stage 1 and its learning rate at each step."""

from collections.abc import Callable

import torch
from transformers import get_scheduler

from lora_sku.errors import TrainingError
from lora_sku.recipe import TrainingSection


def make_optimizer(
    parameters: list[torch.nn.Parameter], training: TrainingSection, device: torch.device
) -> torch.optim.Optimizer:
    """AdamW as the recipe asks for; ``auto`` is paged 8-bit on CUDA and torch's own on a CPU.

    Raises:
        TrainingError: for an 8-bit optimizer on a CPU.
    """
    name = training.optim
    if name == "auto":
        name = "adamw_torch" if device.type == "cpu" else "paged_adamw_8bit"
    if name == "adamw_torch":
        return torch.optim.AdamW(
            parameters, lr=training.learning_rate, weight_decay=training.weight_decay
        )
    if device.type == "cpu":
        raise TrainingError(
            f"{name} needs a CUDA device: on a CPU it is slower and saves nothing that matters",
            where="training.optim",
            remedy="Set training.optim: auto.",
        )
    import bitsandbytes as bnb

    chosen = bnb.optim.PagedAdamW8bit if name == "paged_adamw_8bit" else bnb.optim.AdamW8bit
    optimizer: torch.optim.Optimizer = chosen(
        parameters, lr=training.learning_rate, weight_decay=training.weight_decay
    )
    return optimizer


def learning_rate_schedule(
    optimizer: torch.optim.Optimizer, training: TrainingSection
) -> Callable[[int], float]:
    """The learning rate of step 1, 2, ... as a pure function, so that resuming needs no state."""
    # transformers counts from 0, where a warm-up's factor is 0, up to a last factor of 0 that is
    # not reached: with a warm-up, step 1 takes factor(1), and the end lies one further.
    offset = 0 if training.warmup_steps else 1
    scheduler = get_scheduler(
        training.lr_scheduler_type,
        optimizer,
        num_warmup_steps=training.warmup_steps,
        num_training_steps=training.max_steps + 1 - offset,
    )
    factor = scheduler.lr_lambdas[0]
    return lambda step: training.learning_rate * float(factor(step - offset))
