"""What goes through the model at once: a recipe's lengths become passes."""

from collections.abc import Iterator
from dataclasses import dataclass

from lora_sku.planning.layers import Tokens
from lora_sku.planning.passes import Pass
from lora_sku.recipe import DataSection, LossesSection, Recipe


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of each prompt and answer.

    Attributes:
        prompt: Tokens of a prompt, frame included.
        answer: Tokens of an answer, EOS included; its last one is a target and no input.
    """

    prompt: int
    answer: int

    def group(self, answers: int) -> int:
        """Input tokens of one prompt with its answers behind it."""
        return self.prompt + answers * (self.answer - 1)


def stage_1_passes(
    recipe: Recipe, prompts: int, tokens: int | None, *, packs: bool
) -> tuple[Lengths, tuple[Pass, ...]]:
    """How long texts are, and what goes through the model at once in training."""
    lengths = _lengths(recipe.data, prompts, _answers_of_a_prompt(recipe.losses), tokens)
    return lengths, tuple(_training_passes(recipe.losses, prompts, lengths, packs=packs))


def _training_passes(
    losses: LossesSection, prompts: int, lengths: Lengths, *, packs: bool
) -> Iterator[Pass]:
    """The passes of a step: harm, then preservation."""
    own = int(losses.guided_distortion.weight > 0)
    random = _answers_of_a_prompt(losses) - own
    terms = tuple(n * prompts * lengths.answer for n in (own, random) if n)
    yield Pass("forget", load_of(lengths, prompts, own + random, packs=packs), terms, "nll")
    preservation = losses.preservation_divergence
    if preservation.weight > 0:
        pairs = prompts * preservation.prompts
        load = load_of(lengths, pairs, 1, packs=packs)
        yield Pass("retain", load, (pairs * lengths.answer,), "kl")


def load_of(lengths: Lengths, prompts: int, answers: int, *, packs: bool) -> Tokens:
    """One packed row of prompts with their answers behind them, or one pair a row."""
    pairs, width = prompts * answers, lengths.group(1)
    if not packs:
        return Tokens(pairs, width)
    return Tokens(1, prompts * lengths.group(answers), unfolds=(pairs, width))


def _answers_of_a_prompt(losses: LossesSection) -> int:
    random = losses.random_disassociation
    return int(losses.guided_distortion.weight > 0) + random.responses * (random.weight > 0)


def _lengths(data: DataSection, prompts: int, answers: int, tokens: int | None) -> Lengths:
    longest = Lengths(data.max_prompt_tokens, data.max_answer_tokens)
    if tokens is None:
        return longest
    group = tokens / prompts
    share = group / longest.group(answers)
    answer = max(2, round(share * (longest.answer - 1)) + 1)
    return Lengths(max(1, round(group) - answers * (answer - 1)), answer)
