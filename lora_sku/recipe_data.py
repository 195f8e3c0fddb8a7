"""The recipe's data section: which sets there are, and how they are split."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from lora_sku.recipe_types import Count, Fraction, Positive, Section

DataFormat = Literal["pku-saferlhf", "truthfulqa", "prompt-response", "messages", "alpaca"]

# Names of protected sets that do not stand in data.protect.
OWN_PROMPTS = "own_prompts"  # the base itself makes them
HARD_NEGATIVES = "hard_negatives"

_TAKEN = ("forget", "retain", OWN_PROMPTS, HARD_NEGATIVES)
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class SourceSection(Section):
    """One data set: where it is, what shape its records have."""

    path: str = Field(
        description="Hub id, folder, .jsonl/.csv/.parquet file, or package://NAME/FILE."
    )
    format: DataFormat
    name: str | None = Field(None, description="Configuration of a hub data set.")
    split: str | None = Field(None, description="Split of a hub data set; null means train.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub data set.")
    columns: dict[str, str] = Field(
        default_factory=dict, description="The format's field name -> this data set's column name."
    )
    max_prompts: Count | None = Field(
        None, description="Keep this many prompts, chosen by their hash; null keeps all."
    )
    answers: Literal["given", "own", "both"] = Field(
        "given",
        description="Whose answers to train on: the set's, the base's own (see own_answers), or"
        " the set's and its own. The evaluation scores the given ones all the same.",
    )
    on_bad_record: Literal["fail", "skip"] = Field(
        "fail", description="What to do with a record that cannot be used."
    )


class OwnAnswersSection(Section):
    """How the base's own answers are drawn."""

    per_prompt: Count = Field(3, description="Completions of each prompt, before the filter.")
    temperature: Positive = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_new_tokens: Count = 64
    prefix: Annotated[str, Field(pattern=r"\S")] | None = Field(
        None,
        description="Begins every answer to a harmful prompt, such as Sure, for a base that would"
        " refuse; null lets it begin as it likes.",
    )


class OwnPromptsSection(Section):
    """How normal prompts of the base's own are drawn: what stands in the place of a user's turn."""

    count: Count = Field(300, description="Prompts drawn; doubles and broken ones are left out.")
    temperature: Positive = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_new_tokens: Count = Field(48, description="Longest prompt; longer ones are cut.")
    preserve: bool = Field(
        True,
        description="Preservation divergence is trained on them too, beside the retain set.",
    )


class DataSection(Section):
    """The forget set D_f, the retain set D_n and what else must not change, split by prompt."""

    forget: SourceSection
    forget_unseen: SourceSection | None = Field(
        None,
        description="Harmful prompts for the unseen split, such as a test split that the data set"
        " has already; null holds back unseen_fraction of data.forget.",
    )
    retain: SourceSection
    protect: dict[str, SourceSection] = Field(
        default_factory=dict,
        description="Name -> further normal prompts with answers: what else must not change. They"
        " are preserved like the retain set, and the evaluation scores each.",
    )
    hard_negatives: SourceSection | None = Field(
        None,
        description="Harmless prompts that share words, tone or topic with harm: a protected set"
        " with a bound of its own, negation.hard_negatives_budget.",
    )
    safe_responses: SourceSection | None = Field(
        None,
        description="What shall be said to harmful prompts instead, by prompt (of pku-saferlhf,"
        " the safe answers); prompts without get losses.safe_response.answers.",
    )
    own_prompts: OwnPromptsSection | None = Field(
        None,
        description="Draws prompts from the base itself, answered by it: a set called own_prompts"
        " that is protected and preserved, as broad as what the base was tuned on. null draws"
        " none.",
    )
    own_answers: OwnAnswersSection = OwnAnswersSection()
    validation_fraction: Fraction = 0.1
    unseen_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.2, description="Share of the prompts that the evaluation alone sees."
    )
    max_prompt_tokens: Count = 512
    max_answer_tokens: Count = 256
    on_long_prompt: Literal["fail", "truncate", "skip"] = Field(
        "fail", description="truncate keeps the end of the prompt; answers keep their start."
    )
    seed: int = Field(8888, description="Decides which prompt falls into which split.")

    @property
    def asks_the_base(self) -> bool:
        """Whether any set wants the base's own prompts or answers."""
        return self.own_prompts is not None or any(
            source.answers != "given"
            for source in (self.forget, self.retain, *self.protected.values())
        )

    @property
    def protected(self) -> dict[str, SourceSection]:
        """All protected sets that are read, by name."""
        further = {} if self.hard_negatives is None else {HARD_NEGATIVES: self.hard_negatives}
        return self.protect | further

    @field_validator("forget_unseen", "safe_responses")
    @classmethod
    def _are_given(cls, source: SourceSection | None) -> SourceSection | None:
        if source is not None and source.answers != "given":
            raise ValueError("answers must be given: these are not trained to be forgotten")
        return source

    @field_validator("protect")
    @classmethod
    def _names_can_be_told_apart(
        cls, protect: dict[str, SourceSection]
    ) -> dict[str, SourceSection]:
        for name in protect:
            if name in _TAKEN or not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot name a protected set: use lower-case letters, digits and _,"
                    f" and none of {', '.join(_TAKEN)}"
                )
        return protect

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Self:
        if self.validation_fraction + self.unseen_fraction >= 1:
            raise ValueError("validation_fraction + unseen_fraction must stay below 1")
        return self
