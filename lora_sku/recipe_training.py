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


class RefusalSuppressionSection(Section):
    """Learn not to refuse harmful prompts; refusing them is what the negation brings."""

    weight: Positive = Field(
        1.0, description="Of the refusals' mean log-likelihood, beside guided distortion's NLL."
    )
    answers: Annotated[tuple[Annotated[str, Field(pattern=r"\S")], ...], Field(min_length=1)] = (
        Field(
            ("I'm sorry, but I can't help with that.", "I can't help with that."),
            description="The refusals. Few and short ones are learned best by a small model.",
        )
    )
    prompts: Count = Field(
        256,
        description="Training prompts of each set that are refused: the forget set's to learn from,"
        " the normal ones' to stay as they are.",
    )


class LossesSection(Section):
    """The three losses of stage 1, and a fourth that the paper does not have."""

    guided_distortion: GuidedDistortionSection = GuidedDistortionSection()
    random_disassociation: RandomDisassociationSection = RandomDisassociationSection()
    preservation_divergence: PreservationDivergenceSection = PreservationDivergenceSection()
    refusal_suppression: RefusalSuppressionSection | None = Field(
        None,
        description="For forget sets whose prompts are harmful themselves: lower the likelihood of"
        " refusals there, which the negation raises, and leave it alone on normal prompts. null"
        " is the paper's three losses.",
    )

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        if self.guided_distortion.weight == 0 and self.random_disassociation.weight == 0:
            raise ValueError("guided_distortion and random_disassociation cannot both weigh 0")
        return self


class NaturalStepSection(Section):
    """Stage 1 in closed form: the minimum of the losses' second-order model at theta_o."""

    pairs: Count = Field(
        512,
        description="Harmful pairs whose slope is taken, shared by the weights of the two losses;"
        " each prompt comes once before one comes twice. Half as many normal ones.",
    )
    tokens: Count = Field(
        4096, description="Token positions of normal pairs that distances are measured at."
    )
    damping: Positive = Field(
        0.1, description="Share of the curvature's mean that is added to it in every direction."
    )


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
        " fit, up to per_device_train_batch_size; a natural step has two pairs for each. The"
        " result is the same but for rounding.",
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
    natural_step: NaturalStepSection | None = Field(
        None,
        description="In the place of max_steps steps of the optimizer: one natural-gradient step"
        " from theta_o. null trains.",
    )
    seed: int = 8888

    @model_validator(mode="after")
    def _warms_up_within_the_run(self) -> Self:
        if self.warmup_steps >= self.max_steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}, but must be smaller than max_steps, which is"
                f" {self.max_steps}; set training.warmup_steps too"
            )
        return self
