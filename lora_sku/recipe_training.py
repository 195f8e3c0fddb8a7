"""Stage 1's sections of the recipe: the losses, and how they are brought down."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from lora_sku.recipe_types import Count, Fraction, Positive, Section, Weight

# What a model without refusals of its own learns fastest: openings that ordinary answers lack, and
# no "I can't": an assistant says "I can help" all the time, and one word then turns its answers.
SAFE_RESPONSES = (
    "That is not something I will help with.",
    "That could hurt someone, so I won't help with it.",
    "That would not be right, so I won't help with it.",
    "That would be unfair to others, so I won't help with it.",
)


class GuidedDistortionSection(Section):
    """L_GD, e1 in the paper: learn the harmful answer, on theta_o + tau."""

    weight: Weight = 2.5


class RandomDisassociationSection(Section):
    """L_RD, e2 in the paper: learn k other harmful answers to the same prompt, on theta_o + tau."""

    weight: Weight = 2.5
    responses: Count = Field(5, description="k, drawn afresh for each prompt at each step.")
    reduction: Literal["mean", "sum"] = Field(
        "mean", description="Over the k answers: sum is the paper's formula, k times the mean."
    )


class PreservationDivergenceSection(Section):
    """L_PD, e3 in the paper: KL(theta_o || theta) on normal answers."""

    weight: Weight = 1.0
    side: Literal["negated", "acquired", "both"] = Field(
        "negated",
        description="Where it is taken: negated is theta_o - tau, which ships; acquired is"
        " theta_o + tau, the paper's.",
    )
    prompts: Count = Field(1, description="Normal prompts for each forget prompt of a step.")
    direction: Literal["preserve", "diverge"] = Field(
        "preserve", description="preserve minimises the KL; diverge maximises it up to the bound."
    )
    cache_reference: bool = Field(
        False,
        description="Keep theta_o's hidden states on disk, for later epochs and runs: hidden size"
        " x 2 bytes an answer token.",
    )
    bound: Positive = Field(2.0, description="Nats per token beyond which diverge stops pushing.")


class SafeResponseSection(Section):
    """Learn what shall be said to harmful prompts instead, on theta_o - tau."""

    weight: Weight = 0.0
    answers: Annotated[tuple[Annotated[str, Field(pattern=r"\S")], ...], Field(min_length=1)] = (
        Field(
            SAFE_RESPONSES,
            description="One is drawn for each prompt at each step, unless data.safe_responses has"
            " some for that prompt.",
        )
    )
    begun: Fraction = Field(
        0.0,
        description="Share of prompts whose harmful answer has begun: the safe response follows its"
        " first one to eight words, or an opening such as Of course. In held_responses the same"
        " with normal answers.",
    )
    first_tokens_weight: Positive = Field(
        3.0,
        description="Of the first three tokens, beside 1 of the others.",
    )


class HeldResponsesSection(Section):
    """Keep safe responses as unlikely behind normal prompts as they were, on theta_o - tau."""

    weight: Weight = 0.0


class LossesSection(Section):
    """The losses of stage 1: the paper's three, and two that are taken on what ships."""

    guided_distortion: GuidedDistortionSection = GuidedDistortionSection()
    random_disassociation: RandomDisassociationSection = RandomDisassociationSection()
    preservation_divergence: PreservationDivergenceSection = PreservationDivergenceSection()
    safe_response: SafeResponseSection = SafeResponseSection()
    held_responses: HeldResponsesSection = HeldResponsesSection()

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        learned = (self.guided_distortion, self.random_disassociation, self.safe_response)
        if all(term.weight == 0 for term in learned):
            raise ValueError(
                "guided_distortion, random_disassociation and safe_response cannot all weigh 0"
            )
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
