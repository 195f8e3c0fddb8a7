"""What the benchmarks' tests share: a setup on a tiny model, an encoder, drawn pairs."""

from pathlib import Path
from typing import Any

import torch

from benchmarks.clock import Clock
from benchmarks.setup import Setup
from lora_sku.data import Encoder, StepDraw
from lora_sku.model import load_tokenizer
from lora_sku.recipe import AdapterSection, BaseModelSection, LossesSection, TrainingSection

DRAWS = (
    StepDraw(
        forget=(("How?", "Well."), ("Why is that so?", "Because.")),
        random=(
            (("How?", "Sit on it."), ("How?", "Leave it")),
            (("Why is that so?", "In the rain."), ("Why is that so?", "A")),
        ),
        normal=(("What colour is snow?", "White."), ("And coal?", "It is black.")),
        safe=(("How?", "I won't help with it."), ("Why is that so?", "No, sorry.")),
    ),
    StepDraw(
        forget=(("Who?", "Me, and then some."), ("Where?", "There.")),
        random=(
            (("Who?", "No one at all"), ("Who?", "It")),
            (("Where?", "On the kite."), ("Where?", "By the tower")),
        ),
        normal=(("Mud?", "Brown"), ("Grass?", "Green, mostly.")),
    ),
)
LOSSES = LossesSection.model_validate(
    {
        "guided_distortion": {"weight": 2.5},
        "random_disassociation": {"weight": 1.5, "responses": 2},
        "preservation_divergence": {"weight": 0.75, "side": "acquired"},
    }
)
CPU = torch.device("cpu")


def make_setup(folder: Path, quantization: str = "none", **training: Any) -> Setup:
    """fp32, a rank-4 adapter, two prompts a step."""
    return Setup(
        BaseModelSection(
            path=str(folder), quantization=quantization, device="cpu", compute_dtype="float32"
        ),
        AdapterSection(r=4, lora_alpha=8),
        LOSSES,
        TrainingSection(**{"learning_rate": 1e-2, "gradient_checkpointing": False, **training}),
        strength=1.5,
    )


def make_encoder(setup: Setup) -> Encoder:
    tokenizer = load_tokenizer(setup.base_model)
    return Encoder(tokenizer, template=None, max_prompt_tokens=64, max_answer_tokens=32)


def encoder_and_draws(setup: Setup) -> tuple[Encoder, tuple[StepDraw, ...]]:
    """For a process of its own."""
    return make_encoder(setup), DRAWS


def make_clock() -> Clock:
    return Clock(CPU)
