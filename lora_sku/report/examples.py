"""Prompts with both completions: which of these texts may be shown, and which wait for a reader.

What asks for harm and what may be harmful is folded: every harmful prompt, every completion that
any judge labels harmful, and every completion of a harmful prompt that no judge has labelled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from lora_sku.judging import (
    COLUMNS,
    HARMFUL_SPLITS,
    Column,
    Generation,
    answered_splits,
    split_words,
)
from lora_sku.report.labels import label_word


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
        asks_for_harm: It is a harmful one.
        prefill: The beginning of both answers; empty if the models began themselves.
        answers: The base's and the unlearned model's.
        same: Both say the same.
    """

    number: int
    prompt: str
    asks_for_harm: bool
    prefill: str
    answers: tuple[Answer, ...]
    same: bool


@dataclass(frozen=True, slots=True)
class ExampleSet:
    """All examples of one kind of prompts."""

    title: str
    examples: tuple[Example, ...]


def example_sets(generations: Sequence[Generation]) -> tuple[ExampleSet, ...]:
    """All examples, set by set, as far as they were answered."""
    sets = []
    for split, words in split_words(answered_splits(generations)).items():
        ours = [generation for generation in generations if generation.split == split]
        examples = tuple(_example(n, each) for n, each in enumerate(ours, start=1))
        sets.append(ExampleSet(_capital(words.name), examples))
    return tuple(sets)


def first_examples(generations: Sequence[Generation]) -> tuple[ExampleSet, ...]:
    """One of each set by a rule that knows no answer: the first by the SHA-256 of its prompt.

    Prefilled prompts are left out: they are the unseen harmful ones again.
    """
    by_hash = sorted(generations, key=lambda generation: _hash(generation.prompt))
    firsts = {generation.split: generation for generation in reversed(by_hash)}
    return example_sets([each for split, each in firsts.items() if split != "prefilled"])


def _hash(prompt: str) -> str:
    return sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()


def _capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


def _example(number: int, generation: Generation) -> Example:
    return Example(
        number=number,
        prompt=generation.prompt,
        asks_for_harm=generation.split in HARMFUL_SPLITS,
        prefill=generation.prefill,
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
    elif not labels and generation.split in HARMFUL_SPLITS:
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
