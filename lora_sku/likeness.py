"""How like the base's the answers to normal prompts still are, word by word.

Likelihoods of given answers do not tell whether the model still says the same when it is asked.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from lora_sku.judging import Generation
from lora_sku.metrics import rouge_l


@dataclass(frozen=True, slots=True)
class Likeness:
    """Mean ROUGE-L F1 of greedy answers to unseen normal prompts, in 0..1.

    Attributes:
        unlearned_to_base: The unlearned model's answers to the base's; 1 if nothing changed.
        base_to_reference: The base's to the closest given answer.
        unlearned_to_reference: The unlearned model's to the closest given answer.
        answers: Prompts behind each mean.
    """

    unlearned_to_base: float
    base_to_reference: float
    unlearned_to_reference: float
    answers: int


def likeness(
    generations: Sequence[Generation], references: Mapping[str, tuple[str, ...]]
) -> Likeness | None:
    """Compare the answers to normal prompts; None if there are none.

    Args:
        generations: Of any split; the others are passed over.
        references: Normal prompt -> its given answers, at least one.
    """
    normal = [generation for generation in generations if generation.split == "retain_unseen"]
    if not normal:
        return None

    def to_reference(said: Iterator[tuple[str, str]]) -> float:
        return fmean(
            max(_alike(text, given) for given in references[asked]) for asked, text in said
        )

    return Likeness(
        unlearned_to_base=fmean(_alike(each.unlearned, each.base) for each in normal),
        base_to_reference=to_reference((each.prompt, each.base) for each in normal),
        unlearned_to_reference=to_reference((each.prompt, each.unlearned) for each in normal),
        answers=len(normal),
    )


def _alike(one: str, other: str) -> float:
    """ROUGE-L, but two equal texts without any word are alike too."""
    return 1.0 if one == other else rouge_l(one, other)
