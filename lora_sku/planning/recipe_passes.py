"""What goes through the model at once: a recipe's lengths become passes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from lora_sku.planning.layers import Tokens
from lora_sku.planning.passes import Pass
from lora_sku.recipe import DataSection, LossesSection, Recipe

SIDES = ("acquired", "negated")
BEGUN_TOKENS = 16  # eight words at most, of 1.3 tokens each in English


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of each prompt and answer.

    Attributes:
        prompt: Tokens of a prompt, frame included.
        answer: Tokens of an answer, EOS included; its last one is a target and no input.
    """

    prompt: int
    answer: int


@dataclass(frozen=True, slots=True)
class Answers:
    """Those of one loss behind each prompt.

    Attributes:
        number: How many.
        begun: Tokens before them that are given, as the prompt is.
    """

    number: int
    begun: int = 0

    def targets(self, lengths: Lengths) -> int:
        """Supervised tokens of one."""
        return lengths.answer

    def inputs(self, lengths: Lengths) -> int:
        """Input tokens of one."""
        return self.begun + self.targets(lengths) - 1


@dataclass(frozen=True, slots=True)
class PassShape:
    """A pass whose texts have no length yet.

    Attributes:
        name: What it is for.
        prompts: In the model at once.
        answers: Behind each prompt, by loss; at least one.
        loss: As in `Pass`.
    """

    name: str
    prompts: int
    answers: tuple[Answers, ...]
    loss: Literal["nll", "kl"]

    def of(self, lengths: Lengths, *, packs: bool) -> Pass:
        """The pass with texts of such lengths."""
        pairs = self._pairs
        width = lengths.prompt + max(answers.inputs(lengths) for answers in self.answers)
        behind = sum(answers.number * answers.inputs(lengths) for answers in self.answers)
        row = self.prompts * (lengths.prompt + behind)
        load = Tokens(1, row, unfolds=(pairs, width)) if packs else Tokens(pairs, width)
        targets = (answers.number * answers.targets(lengths) for answers in self.answers)
        return Pass(self.name, load, tuple(self.prompts * n for n in targets), self.loss)

    def longest_prompt(self, tokens: int, answer: int, *, packs: bool) -> int:
        """The most prompt tokens with which the pass, its answers so long, has ``tokens``."""
        others = self.of(Lengths(0, answer), packs=packs).load.count
        return (tokens - others) // (self.prompts if packs else self._pairs)

    @property
    def _pairs(self) -> int:
        return self.prompts * sum(answers.number for answers in self.answers)


def stage_1_passes(
    recipe: Recipe, prompts: int, tokens: int | None, *, packs: bool
) -> tuple[Lengths, tuple[Pass, ...]]:
    """How long texts are, and what goes through the model at once in training.

    Args:
        recipe: Its data's limits and its losses.
        prompts: Forget prompts at once.
        tokens: Of the largest pass, or as many as its prompts and answers have at least; None takes
            the longest texts.
        packs: Whether a prompt stands once before its answers.
    """
    shapes = tuple(_training_passes(recipe.losses, prompts))
    lengths = _lengths(recipe.data, shapes, tokens, packs=packs)
    return lengths, tuple(shape.of(lengths, packs=packs) for shape in shapes)


def _training_passes(losses: LossesSection, prompts: int) -> Iterator[PassShape]:
    """The passes of a step, as `step` has them: harm, safe responses, then normal prompts.

    An upper bound: every prompt counts in full, though what all begin with stands once in a packed
    row, and a safe response is as long as any answer.
    """
    own = Answers(int(losses.guided_distortion.weight > 0))
    disassociated = losses.random_disassociation
    random = Answers(disassociated.responses * (disassociated.weight > 0))
    yield from _pass("forget", prompts, (own, random), "nll")
    begun = BEGUN_TOKENS * (losses.safe_response.begun > 0)
    safe = Answers(int(losses.safe_response.weight > 0), begun=begun)
    yield from _pass("safe", prompts, (safe,), "nll")
    preservation = losses.preservation_divergence
    for side in SIDES:
        kept = Answers(int(preservation.weight > 0 and preservation.side in (side, "both")))
        is_held = losses.held_responses.weight > 0 and side == "negated"
        held = Answers(int(is_held), begun=begun)
        yield from _pass("retain", prompts * preservation.prompts, (kept, held), "kl")


def _pass(
    name: str, prompts: int, answers: tuple[Answers, ...], loss: Literal["nll", "kl"]
) -> Iterator[PassShape]:
    """The pass of the losses that have answers, if there are any."""
    weighed = tuple(each for each in answers if each.number)
    if weighed:
        yield PassShape(name, prompts, weighed, loss)


def load_of(lengths: Lengths, prompts: int, answers: int, *, packs: bool) -> Tokens:
    """One packed row of prompts with their answers behind them, or one pair a row."""
    return PassShape("", prompts, (Answers(answers),), "nll").of(lengths, packs=packs).load


def _lengths(
    data: DataSection, shapes: tuple[PassShape, ...], tokens: int | None, *, packs: bool
) -> Lengths:
    longest = Lengths(data.max_prompt_tokens, data.max_answer_tokens)
    if tokens is None:
        return longest
    most = max(shape.of(longest, packs=packs).load.count for shape in shapes)
    wanted = max(2, (longest.answer - 1) * tokens // most + 1)
    for answer in range(wanted, 1, -1):
        prompt = min(shape.longest_prompt(tokens, answer, packs=packs) for shape in shapes)
        if prompt >= 1:
            return Lengths(prompt, answer)
    return Lengths(1, 2)
