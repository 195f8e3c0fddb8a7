"""From encoded pairs to one batch: padded rows, or rows packed without repeating a prompt.

B rows, T tokens of the longest one, N answer tokens of the batch; R pairs of W tokens at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

from lora_sku.data.encoding import Encoded


@dataclass(frozen=True)
class Layout:
    """How a packed row of T tokens unfolds into R rows of W places, one pair a row.

    Attributes:
        position_ids: (1, T) int64; every answer goes on counting where its prompt ends.
        unfold: (R, W) int64, the packed token at each place; past a pair's end any token.
        fold: (T,) int64, one of its R * W places for each packed token.
    """

    position_ids: Tensor
    unfold: Tensor
    fold: Tensor


@dataclass(frozen=True)
class Batch:
    """Token rows of one micro-batch, and which of their positions predict which answer tokens.

    An answer's last token predicts nothing, so it is no input, only a target.

    Attributes:
        input_ids: (B, T) int64, padded on the right. No mask is needed: in a causal model no real
            token sees a later one.
        sources: (N,) int64, index into the B * T positions: the one before each answer token.
        targets: (N,) int64, the answer tokens, EOS included, pair by pair in the order given.
        layout: Of a packed row (B = 1); None for one pair a row.
    """

    input_ids: Tensor
    sources: Tensor
    targets: Tensor
    layout: Layout | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        layout = self.layout and Layout(*(t.to(device) for t in vars(self.layout).values()))
        return Batch(
            self.input_ids.to(device), self.sources.to(device), self.targets.to(device), layout
        )


def collate(pairs: Sequence[Encoded], *, pad_id: int) -> Batch:
    """One pair a row, padded on the right.

    Args:
        pairs: At least one.
        pad_id: Fills the ends. It may be a token that also occurs in answers, as EOS does: what
            counts comes from the lengths.

    Raises:
        ValueError: nothing to collate, or a pair without a prompt token or an answer token.
    """
    _check(pairs)
    rows = [pair.input_ids[:-1] for pair in pairs]
    width = max(len(row) for row in rows)
    sources = [
        number * width + position
        for number, pair in enumerate(pairs)
        for position in range(pair.given_length - 1, len(pair.input_ids) - 1)
    ]
    return Batch(_padded(rows, width, pad_id), torch.tensor(sources), _targets(pairs))


def pack(groups: Sequence[Sequence[Encoded]]) -> Batch:
    """All prompts in one row without padding, each once, with its answers behind it.

    What all prompts begin with, a chat template's first turn as a rule, stands once in front. For
    `attention`, which lets each answer see its own prompt and itself, at the positions that it
    would have in a row of its own.

    Args:
        groups: For each prompt its pairs, all with the same prompt tokens.

    Raises:
        ValueError: as `collate`, or pairs of one group with different prompts.
    """
    pairs = [pair for group in groups for pair in group]
    _check(pairs)
    prompts = [group[0].input_ids[: group[0].prompt_length] for group in groups]
    shared = _common_beginning(prompts)
    tokens = list(prompts[0][:shared])
    positions = list(range(shared))
    places: list[list[int]] = []  # of each pair, the packed tokens that it is made of
    for prompt, group in zip(prompts, groups, strict=True):
        own = prompt[shared:]
        prompt_places = [*range(shared), *range(len(tokens), len(tokens) + len(own))]
        tokens += own
        positions += range(shared, len(prompt))
        for pair in group:
            if pair.input_ids[: pair.prompt_length] != prompt:
                raise ValueError("the pairs of a group must have the same prompt")
            answer = pair.input_ids[pair.prompt_length : -1]
            places.append([*prompt_places, *range(len(tokens), len(tokens) + len(answer))])
            tokens += answer
            positions += range(len(prompt), len(prompt) + len(answer))
    sources = [
        place
        for pair, row in zip(pairs, places, strict=True)
        for place in row[pair.given_length - 1 :]
    ]
    layout = Layout(torch.tensor([positions]), *_unfolding(places, len(tokens)))
    return Batch(torch.tensor([tokens]), torch.tensor(sources), _targets(pairs), layout)


def _common_beginning(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with."""
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*prompts, strict=False))
    return sum(1 for _ in columns)


def _unfolding(places: Sequence[Sequence[int]], tokens: int) -> tuple[Tensor, Tensor]:
    width = max(len(row) for row in places)
    fold = [0] * tokens
    for number, row in enumerate(places):
        for column, place in enumerate(row):
            fold[place] = number * width + column
    return _padded(places, width, 0), torch.tensor(fold)


def _check(pairs: Sequence[Encoded]) -> None:
    if not pairs:
        raise ValueError("a batch needs at least one encoded pair")
    for pair in pairs:
        if pair.prompt_length < 1:
            raise ValueError("the first answer token has no position before it")
        if len(pair.input_ids) <= pair.given_length:
            raise ValueError("a pair has no answer token")


def _targets(pairs: Sequence[Encoded]) -> Tensor:
    return torch.tensor([token for pair in pairs for token in pair.input_ids[pair.given_length :]])


def _padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> Tensor:
    return torch.tensor([[*row, *(fill,) * (width - len(row))] for row in rows])
