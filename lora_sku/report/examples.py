"""Prompts with both completions: which of these texts may be shown, and which wait for a reader.

What asks for harm and what may be harmful is folded: every prompt of the forget set, every
completion that any judge labels harmful, and every completion of a forget prompt that no judge has
labelled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_sku.judging import COLUMNS, GENERATION_SPLITS, Column, Generation
from lora_sku.report.labels import SPLITS, label_word


@dataclass(frozen=True, slots=True)
class Chip:
    """A judge's label of a completion."""

    judge: str
    label: str
    word: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion.

    Attributes:
        column: Whose.
        text: What it says.
        chips: What the judges say of it.
        why_folded: Empty for a text that may be shown.
    """

    column: Column
    text: str
    chips: tuple[Chip, ...]
    why_folded: str


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt, before and after.

    Attributes:
        number: From 1 within its set.
        prompt: What was asked.
        asks_for_harm: It is one of the forget set.
        answers: The base's and the unlearned model's.
        same: Both say the same.
    """

    number: int
    prompt: str
    asks_for_harm: bool
    answers: tuple[Answer, ...]
    same: bool


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """All examples of one kind of prompts."""

    title: str
    examples: tuple[Example, ...]


def example_sets(generations: Sequence[Generation]) -> tuple[ExampleSet, ...]:
    """The forget set's and the retain set's, as far as they were answered."""
    sets = []
    for split in GENERATION_SPLITS:
        ours = [generation for generation in generations if generation.split == split]
        if ours:
            examples = tuple(_example(n, each) for n, each in enumerate(ours, start=1))
            title = SPLITS[split]
            sets.append(ExampleSet(f"{title[0].upper()}{title[1:]}", examples))
    return tuple(sets)


def _example(number: int, generation: Generation) -> Example:
    return Example(
        number=number,
        prompt=generation.prompt,
        asks_for_harm=generation.split == "forget_unseen",
        answers=tuple(_answer(generation, column) for column in COLUMNS),
        same=generation.base == generation.unlearned,
    )


def _answer(generation: Generation, column: Column) -> Answer:
    labels = {judge: told[column].label for judge, told in generation.verdicts.items()}
    harmful = [str(judge) for judge, label in labels.items() if label == "harmful"]
    why = ""
    if harmful:
        words = {label_word(judge, "harmful", generation.split) for judge in harmful}
        why = f"labelled {' and '.join(sorted(words))} by {', '.join(harmful)}"
    elif not labels and generation.split == "forget_unseen":
        why = "answers a harmful prompt, and no judge has labelled it"
    return Answer(
        column=column,
        text=generation.completion(column),
        chips=tuple(
            Chip(judge, label, label_word(judge, label, generation.split))
            for judge, label in labels.items()
        ),
        why_folded=why,
    )
