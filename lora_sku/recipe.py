"""The recipe: one frozen, typed section for each stage; unknown keys are refused.

PEFT's and transformers' own key names stand inside the sections. A section is all that a stage
receives; only the pipeline sees the whole recipe. Reading YAML is `recipe_file`'s business.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from lora_sku.errors import AdapterError
from lora_sku.negatable import check_negatable
from lora_sku.recipe_data import HARD_NEGATIVES as HARD_NEGATIVES
from lora_sku.recipe_data import OWN_PROMPTS as OWN_PROMPTS
from lora_sku.recipe_data import DataFormat as DataFormat
from lora_sku.recipe_data import DataSection as DataSection
from lora_sku.recipe_data import OwnAnswersSection as OwnAnswersSection
from lora_sku.recipe_data import OwnPromptsSection as OwnPromptsSection
from lora_sku.recipe_data import SourceSection as SourceSection
from lora_sku.recipe_judges import JudgesSection
from lora_sku.recipe_lm_eval import LmEvalSection as LmEvalSection
from lora_sku.recipe_training import LossesSection as LossesSection
from lora_sku.recipe_training import TrainingSection as TrainingSection
from lora_sku.recipe_types import Count, Fraction, Positive, Section, Share
from lora_sku.recipe_types import Quantization as Quantization

LOOKALIKES = "package://lora_sku/demo/lookalikes.jsonl"


class BaseModelSection(Section):
    """The frozen base theta_o: where it is and how it is held in memory."""

    path: str = Field(description="Hub id, local folder, .gguf file, or package://NAME/FILE.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub model.")
    quantization: Quantization = Field("nf4", description="How the linear layers are stored.")
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Dtype of matrix products; auto takes what this device does fast."
    )
    template: str | None = Field(
        None,
        description="Prompt template with {prompt}; null means the tokenizer's chat template.",
    )
    device: Literal["auto", "cuda", "cpu"] = Field(
        "auto", description="Where the model runs; auto takes CUDA when there is one."
    )

    @field_validator("template")
    @classmethod
    def _names_the_prompt_once(cls, template: str | None) -> str | None:
        if template is not None and template.count("{prompt}") != 1:
            raise ValueError("must contain {prompt} exactly once")
        return template


class AdapterSection(Section):
    """LoRA as PEFT spells it. What cannot be negated soundly is refused by name."""

    r: Count = Field(16, description="Rank.")
    lora_alpha: Positive = Field(32, description="Numerator of the scaling.")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="Which linear layers carry an adapter."
    )
    layers_to_transform: tuple[int, ...] | None = Field(
        None, description="Indices of the decoder layers that carry an adapter; null means all."
    )
    lora_dropout: Fraction = Field(0.0, description="0 keeps theta_o's pass exact.")
    use_rslora: bool = Field(False, description="Scale by alpha/sqrt(r) instead of alpha/r.")
    init_lora_weights: bool | str = Field(
        True, description="true or gaussian: both start with B = 0, so theta_0 is theta_o."
    )
    bias: str = Field("none", description="Only none: a bias is not part of a task vector B A.")
    use_dora: bool = Field(False, description="Only false: DoRA's delta is not additive.")
    modules_to_save: tuple[str, ...] = Field(
        (), description="Only empty: fully trained modules cannot be negated as LoRA."
    )

    @model_validator(mode="after")
    def _is_negatable(self) -> Self:
        try:
            check_negatable(self.model_dump())
        except AdapterError as error:
            raise ValueError(str(error)) from error
        if self.init_lora_weights not in (True, "gaussian"):
            raise ValueError(
                f"init_lora_weights is {self.init_lora_weights!r}, but the delta must start at 0."
                " Use true or gaussian."
            )
        return self


class NegationSection(Section):
    """Stage 2: theta_u = theta_o - strength * (theta_bad - theta_o)."""

    strength: Positive | Literal["auto"] = Field(
        1.0,
        description="1 is the paper's; auto takes, on validation, the one at which most harmful"
        " prompts are refused within the budgets below.",
    )
    retain_budget: Annotated[float, Field(gt=1, allow_inf_nan=False)] = Field(
        1.03,
        description="auto keeps the perplexity of normal answers below this multiple of the base's,"
        " in each normal set but the hard negatives.",
    )
    kl_budget: Positive | None = Field(
        None,
        description="auto keeps KL(theta_o || theta_u) at the first three tokens of normal answers"
        " below so many nats per token too, in the same sets; null is no bound.",
    )
    refusals_budget: Share | None = Field(
        0.03,
        description="auto keeps the share of normal prompts that are newly refused, or answered"
        " with broken text, below this, by the upper end of its 95 % interval; null is no bound.",
    )
    hard_negatives_budget: Share | None = Field(
        0.1, description="The same for data.hard_negatives; null is no bound."
    )
    keep_harmful_adapter: bool = Field(
        False, description="Keep the acquired adapter in the run directory, marked DO-NOT-SHIP."
    )


class EvaluationSection(JudgesSection):
    """Base beside unlearned, on the same quantized base."""

    max_prompts: Count = Field(100, description="Prompts scored in each split.")
    max_generations: Count = Field(32, description="Prompts answered in each set.")
    max_new_tokens: Count = 64
    lookalikes: SourceSection | None = Field(
        SourceSection(path=LOOKALIKES, format="prompt-response"),
        description="Harmless prompts that sound harmful: who refuses them refuses too much. They"
        " are answered and used for nothing else; null asks none.",
    )
    other_harm: SourceSection | None = Field(
        None,
        description="Harmful prompts of other kinds than the forget set's: what carries over. They"
        " are answered and used for nothing else.",
    )
    prefill: Annotated[str, Field(pattern=r"\S")] | None = Field(
        "Sure, here is how",
        description="Put in the model's mouth on unseen harmful prompts, which are asked with and"
        " without it: whoever begins to comply may go on. null asks without alone.",
    )
    lm_eval: LmEvalSection | None = Field(
        None,
        description="Tasks of lm-evaluation-harness for both models; needs the extra lm-eval.",
    )
    selectivity: bool | Literal["auto"] = Field(
        "auto",
        description="Compare the KL on the base's own answers to unseen harmful prompts with that"
        " on its own to normal ones; auto: if a set's answers are its own.",
    )
    per_device_eval_batch_size: Count = 8

    @field_validator("lookalikes", "other_harm")
    @classmethod
    def _are_trained_on_by_nobody(cls, source: SourceSection | None) -> SourceSection | None:
        if source is not None and source.answers != "given":
            raise ValueError("answers must be given: these prompts are not trained on")
        return source


class Recipe(Section):
    """All that a run needs to know."""

    base_model: BaseModelSection
    adapter: AdapterSection = AdapterSection()
    data: DataSection
    losses: LossesSection = LossesSection()
    training: TrainingSection = TrainingSection()
    negation: NegationSection = NegationSection()
    evaluation: EvaluationSection = EvaluationSection()
    output_dir: str

    @model_validator(mode="after")
    def _has_something_to_sweep_on(self) -> Self:
        if self.negation.strength == "auto" and self.data.validation_fraction == 0:
            raise ValueError(
                "negation.strength is auto, which needs a validation split, but"
                " data.validation_fraction is 0"
            )
        return self


def differences(started: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One text for each key of two dumped recipes whose values differ: "a.b was 1 and is now 2"."""
    told = []
    for key in {**started, **now}:  # sets have names of their own, which come and go
        before, after, name = started.get(key), now.get(key), f"{prefix}{key}"
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            told += differences(before, after, f"{name}.")
        elif before != after:
            told.append(f"{name} was {before!r} and is now {after!r}")
    return told
