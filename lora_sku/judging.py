"""Collected generations -> every judge's verdicts, and the rates of their labels.

Judges see texts only, so a judge with a large model of its own can come after the evaluated model
was freed.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

from lora_sku.judges import Case, Judge, JudgeName, Rates, Verdict

GenerationSplit = Literal[
    "forget_unseen",
    "prefilled",
    "other_harm",
    "retain_unseen",
    "hard_negatives_unseen",
    "lookalikes",
]
GENERATION_SPLITS: tuple[GenerationSplit, ...] = get_args(GenerationSplit)
HARMFUL_SPLITS: tuple[GenerationSplit, ...] = ("forget_unseen", "prefilled", "other_harm")
Column = Literal["base", "unlearned"]
COLUMNS: tuple[Column, ...] = get_args(Column)

References = Mapping[str, tuple[str, ...]]
"""Prompt of the forget set -> its harmful answers."""


class SplitWords(NamedTuple):
    """A set of prompts in words.

    Attributes:
        name: In the plural, for headings.
        note: What these prompts are, and what is hoped for.
    """

    name: str
    note: str


_WORDS: dict[GenerationSplit, SplitWords] = {
    "forget_unseen": SplitWords(
        "unseen harmful prompts", "of the kinds to forget, never trained on; should fall"
    ),
    "prefilled": SplitWords(
        "unseen harmful prompts, prefilled",
        "the same, the beginning of an answer given; should fall",
    ),
    "other_harm": SplitWords(
        "harmful prompts of other kinds", "of kinds never trained on; should fall"
    ),
    "retain_unseen": SplitWords("unseen normal prompts", "everyday requests; should stay"),
    "hard_negatives_unseen": SplitWords(
        "unseen hard negatives", "harmless, but sound harmful; should stay"
    ),
    "lookalikes": SplitWords(
        "hard negatives of other kinds", "harmless, of kinds never trained on; should stay"
    ),
}
_LOOKALIKES = SplitWords("harmless look-alikes", "harmless, but sound harmful; should stay")


@dataclass(frozen=True, slots=True)
class Generation:
    """Greedy completions of one unseen prompt, before and after.

    Attributes:
        split: Where the prompt is from: the forget set's unseen split, asked as it is or with the
            beginning of an answer; harm of other kinds; the normal sets' unseen splits; hard
            negatives' unseen split; look-alikes, which no split knows.
        prompt: What was asked.
        base: theta_o's completion.
        unlearned: The evaluated adapter's.
        verdicts: Judge -> column -> what it said of that completion.
        prefill: The beginning of both answers, which is not part of the completions.
    """

    split: GenerationSplit
    prompt: str
    base: str
    unlearned: str
    verdicts: dict[JudgeName, dict[Column, Verdict]] = field(default_factory=dict)
    prefill: str = ""

    def completion(self, column: Column) -> str:
        """One of the two completions."""
        return self.base if column == "base" else self.unlearned


def answered_splits(generations: Sequence[Generation]) -> list[GenerationSplit]:
    """The splits that prompts were answered of; look-alikes need not be among them."""
    answered = {generation.split for generation in generations}
    return [split for split in GENERATION_SPLITS if split in answered]


def split_words(answered: Collection[GenerationSplit]) -> dict[GenerationSplit, SplitWords]:
    """Each answered set of prompts in words, in the order in which they are told.

    Args:
        answered: Look-alikes are hard negatives of other kinds only beside trained ones.
    """
    words = _WORDS
    if "hard_negatives_unseen" not in answered:
        words = words | {"lookalikes": _LOOKALIKES}
    return {split: told for split, told in words.items() if split in answered}


@dataclass(frozen=True)
class Judgement:
    """One judge's verdicts on a run, counted.

    Attributes:
        rates: Column -> split -> labels.
        settings: The judge's borders and how good they are; empty if it has none.
    """

    rates: dict[Column, dict[GenerationSplit, Rates]]
    settings: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """For evaluation.json."""
        rates: dict[str, Any] = {
            column: {split: rates.as_dict() for split, rates in of_column.items()}
            for column, of_column in self.rates.items()
        }
        return rates | {"settings": self.settings}


def judge_generations(
    generations: Sequence[Generation], judge: Judge, references: References
) -> tuple[Generation, ...]:
    """The same generations with one more judge's verdicts, all asked for at once.

    Args:
        generations: What was said.
        judge: Who labels it.
        references: Harmful answers by prompt, for judges that compare.
    """
    cases = [
        Case(
            generation.prompt,
            generation.completion(column),
            harmful_prompt=generation.split in HARMFUL_SPLITS,
            prefill=generation.prefill,
            references=references.get(generation.prompt, ()),
        )
        for generation in generations
        for column in COLUMNS
    ]
    verdicts = iter(judge.verdicts(cases))
    return tuple(
        replace(
            generation,
            verdicts=generation.verdicts
            | {judge.name: {column: next(verdicts) for column in COLUMNS}},
        )
        for generation in generations
    )


def count_labels(generations: Sequence[Generation], judge: Judge) -> Judgement:
    """How often a judge gave each label, by column and split.

    Args:
        generations: With this judge's verdicts.
        judge: Whose.
    """
    return Judgement(
        rates={
            column: {
                split: Rates.of(
                    [g.verdicts[judge.name][column] for g in generations if g.split == split]
                )
                for split in answered_splits(generations)
            }
            for column in COLUMNS
        },
        settings=judge.describe(),
    )
