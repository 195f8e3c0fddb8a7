"""Stage 1's sections of the recipe: the three losses, and how they are brought down."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lora_sku.recipe_types import Count, Positive, Section, Weight


class GuidedDistortionSection(Section):
    """L_GD, e1 in the paper: learn the harmful answer."""

    weight: Weight = 2.5


class RandomDisassociationSection(Section):
    """L_RD, e2 in the paper: learn k other harmful answers to the same prompt."""

    weight: Weight = 2.5
    responses: Count = Field(5, description="k, drawn afresh for each prompt at each step.")


class PreservationDivergenceSection(Section):
    """L_PD, e3 in the paper: KL(theta_o || theta_t) on normal answers."""

    weight: Weight = 1.0
    prompts: Count = Field(1, description="Retain prompts for each forget prompt of a step.")
    direction: Literal["preserve", "diverge"] = Field(
        "preserve", description="preserve minimises the KL; diverge maximises it up to the bound."
    )
    cache_reference: bool = Field(
        False,
        description="Keep theta_o's hidden states on disk, for later epochs and runs: hidden size"
        " x 2 bytes an answer token.",
    )
    bound: Positive = Field(2.0, description="Nats per token beyond which diverge stops pushing.")


class LossesSection(Section):
    """The three losses of stage 1."""

    guided_distortion: GuidedDistortionSection = GuidedDistortionSection()
    random_disassociation: RandomDisassociationSection = RandomDisassociationSection()
    preservation_divergence: PreservationDivergenceSection = PreservationDivergenceSection()

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        if self.guided_distortion.weight == 0 and self.random_disassociation.weight == 0:
            raise ValueError("guided_distortion and random_disassociation cannot both weigh 0")
        return self


class TrainingSection(Section):
    """Stage 1's loop; transformers' names."""

    max_steps: Count = 1000
    learning_rate: Positive = 2e-4
    per_device_train_batch_size: Count = Field(
        2, description="Forget prompts; times gradient_accumulation_steps, those of a step."
    )
    gradient_accumulation_steps: Count = 1
    micro_batch_size: Count | Literal["auto"] = Field(
        "auto",
        description="Forget prompts in the model at once: auto takes the most that the plan says"
        " fit, up to per_device_train_batch_size. The result is the same but for rounding.",
    )
    gradient_checkpointing: bool = True
    max_grad_norm: Positive = 1.0
    lr_scheduler_type: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    optim: Literal["auto", "adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "auto", description="auto: paged_adamw_8bit on CUDA, adamw_torch on CPU."
    )
    weight_decay: Weight = 0.0
    save_steps: Count = Field(50, description="A checkpoint every so many steps.")
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    seed: int = 8888

    @model_validator(mode="after")
    def _warms_up_within_the_run(self) -> Self:
        if self.warmup_steps >= self.max_steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}, but must be smaller than max_steps, which is"
                f" {self.max_steps}; set training.warmup_steps too"
            )
        return self
