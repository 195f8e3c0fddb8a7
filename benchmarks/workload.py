"""The pairs that every method trains on: random token ids of given lengths, or the demo's data."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import AutoConfig, PreTrainedTokenizerBase

from benchmarks.setup import Setup
from lora_sku.data import Encoder, StepDraw, StepSampler, load_data
from lora_sku.model import load_tokenizer
from lora_sku.recipe import Recipe
from lora_sku.stages import load_encoder


@dataclass(frozen=True)
class Lengths:
    """What one optimizer step of random token ids is made of.

    Attributes:
        prompt_tokens: Of each prompt.
        answer_tokens: Of each answer, all of them supervised.
        responses: k, random answers of each forget prompt.
        prompts: Forget prompts.
        normal_prompts: Normal prompts for each forget prompt.
    """

    prompt_tokens: int
    answer_tokens: int
    responses: int
    prompts: int
    normal_prompts: int = 1

    @property
    def shared_tokens(self) -> int:
        """Tokens of the forget pass when each prompt stands once before its 1 + k answers."""
        return self.prompts * (self.prompt_tokens + (1 + self.responses) * self.answer_tokens)

    @property
    def separate_tokens(self) -> int:
        """Tokens of the forget passes when each answer has its own copy of the prompt."""
        return self.prompts * (1 + self.responses) * (self.prompt_tokens + self.answer_tokens)


class TokenIdEncoder(Encoder):
    """Reads texts that are token ids with spaces between: exact lengths with any tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, lengths: Lengths) -> None:
        super().__init__(
            tokenizer,
            template="{prompt}",
            max_prompt_tokens=lengths.prompt_tokens,
            max_answer_tokens=lengths.answer_tokens,
        )

    def prompt_ids(self, prompt: str) -> tuple[tuple[int, ...], bool]:
        """The ids as written."""
        return _ids(prompt), False

    def answer_ids(self, answer: str) -> tuple[tuple[int, ...], bool]:
        """The ids as written; no EOS is added."""
        return _ids(answer), False

    def prompt_length(self, prompt: str) -> int:
        """How many ids are written."""
        return len(_ids(prompt))

    def answer_length(self, answer: str) -> int:
        """How many ids are written."""
        return len(_ids(answer))


def id_pairs(setup: Setup, lengths: Lengths, steps: int) -> tuple[Encoder, list[StepDraw]]:
    """Pairs of random token ids from the model's whole vocabulary, and what encodes them."""
    vocabulary = AutoConfig.from_pretrained(setup.folder).vocab_size
    encoder = TokenIdEncoder(load_tokenizer(setup.base_model), lengths)
    return encoder, random_draws(lengths, vocabulary, steps, seed=setup.training.seed)


def random_draws(lengths: Lengths, vocabulary: int, steps: int, *, seed: int) -> list[StepDraw]:
    """Pairs of random token ids for a `TokenIdEncoder`, a draw a step.

    Args:
        lengths: Of every step.
        vocabulary: Ids are drawn from 0 to below it.
        steps: Number of draws.
        seed: Decides all of them.
    """
    source = random.Random(seed)

    def text(tokens: int) -> str:
        return " ".join(str(source.randrange(vocabulary)) for _ in range(tokens))

    def draw() -> StepDraw:
        prompts = [text(lengths.prompt_tokens) for _ in range(lengths.prompts)]
        normal = range(lengths.prompts * lengths.normal_prompts)
        answer = lengths.answer_tokens
        return StepDraw(
            forget=tuple((prompt, text(answer)) for prompt in prompts),
            random=tuple(
                tuple((prompt, text(answer)) for _ in range(lengths.responses))
                for prompt in prompts
            ),
            normal=tuple((text(lengths.prompt_tokens), text(answer)) for _ in normal),
        )

    return [draw() for _ in range(steps)]


def recipe_draws(recipe: Recipe, steps: int) -> tuple[Encoder, Sequence[StepDraw]]:
    """A recipe's encoder and the pairs of its first steps, as its training would draw them."""
    encoder = load_encoder(recipe)
    data = load_data(recipe.data, encoder)
    losses, training = recipe.losses, recipe.training
    prompts = training.per_device_train_batch_size
    sampler = StepSampler(
        data.forget.train,
        [row for splits in data.normal.values() for row in splits.train],
        prompts_per_step=prompts,
        normal_prompts_per_step=prompts * losses.preservation_divergence.prompts,
        responses=losses.random_disassociation.responses,
        seed=training.seed,
    )
    return encoder, [sampler.draw(step) for step in range(steps)]


def _ids(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split())
