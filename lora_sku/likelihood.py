"""What a model says of given answers, again and again: theta_o is run once, the adapter each time.

`evaluation` scores one adapter; this scores the same answers under many strengths of one. theta_o's
states are kept in the machine's memory (hidden size x 2 bytes an answer token), and what leaves the
layers below the adapter as well (as much for every token). A prompt goes through the model once for
all its answers where the architecture can pack them.

Shape suffixes: N answer tokens of a batch, D hidden size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from lora_sku.data import Batch, Encoded, Encoder, Row, collate, pack
from lora_sku.frozen_trunk import frozen_trunk
from lora_sku.losses import score_tokens
from lora_sku.model import AdaptedModel

FIRST_TOKENS = 3
"""Of a safe response: whether it is said is decided there."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What one adapter does to the rows; means over answer tokens, nats per token.

    Attributes:
        nll: Negative log-likelihood of the answers.
        kl: KL(theta_o || model).
        first_kl: The same over each answer's first `FIRST_TOKENS` tokens.
        refused: For each row, whether greedy decoding begins with one of the safe responses.
    """

    nll: float
    kl: float
    first_kl: float
    refused: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class _Asked:
    """One prompt's pairs: its answers, then the beginnings of the safe responses."""

    row: int
    pairs: tuple[Encoded, ...]
    answers: int


@dataclass(slots=True)
class _Sums:
    nll: float = 0.0
    kl: float = 0.0
    first_kl: float = 0.0
    refused: set[int] = field(default_factory=set)


class AnswerScorer:
    """Scores the active adapter on every answer of some rows, and on safe responses to them.

    Args:
        model: In evaluation mode.
        encoder: Tokenizes.
        rows: At least one.
        pairs_at_once: Prompts with an answer in the model at once.
        safe: Safe responses; none of them is looked for if there are none.
    """

    def __init__(
        self,
        model: AdaptedModel,
        encoder: Encoder,
        rows: Sequence[Row],
        *,
        pairs_at_once: int,
        safe: Sequence[str] = (),
    ) -> None:
        self._model = model
        asked = [_asked(encoder, number, row, safe) for number, row in enumerate(rows)]
        longest = max(len(pair.input_ids) for prompt in asked for pair in prompt.pairs)
        packs = model.base.packing.takes(longest)
        self._pieces = list(_pieces(asked, pairs_at_once))
        self._batches = [_batch(piece, packs, encoder.pad_id) for piece in self._pieces]
        answers = [pair for prompt in asked for pair in prompt.pairs[: prompt.answers]]
        self.rows = len(rows)
        self.tokens = sum(pair.answer_length for pair in answers)
        self._first_tokens = sum(min(pair.answer_length, FIRST_TOKENS) for pair in answers)
        self._trunk = frozen_trunk(model)
        self._left: list[Tensor] = []  # what leaves the trunk, of each batch
        self._base_states = [self._first_pass(batch) for batch in self._batches]
        self.base = self._scored(self._base_states)

    def score(self) -> Likelihood:
        """Of the active adapter as it is now."""
        return self._scored(self._states(number) for number in range(len(self._batches)))

    def _scored(self, states: "Sequence[Tensor] | Iterator[Tensor]") -> Likelihood:
        head, device = self._model.base.head, self._model.base.device
        sums = _Sums()
        numbered = enumerate(zip(states, self._batches, self._base_states, strict=True))
        for number, (states_ND, batch, base_ND) in numbered:
            told = score_tokens(
                states_ND.to(device), base_ND.to(device), batch.targets.to(device), head
            )
            _add(sums, self._pieces[number], *(told_N.cpu() for told_N in told))
        return Likelihood(
            sums.nll / self.tokens,
            sums.kl / self.tokens,
            sums.first_kl / self._first_tokens,
            tuple(row in sums.refused for row in range(self.rows)),
        )

    @torch.no_grad()
    def _first_pass(self, batch: Batch) -> Tensor:
        """theta_o's states; what leaves the trunk is kept."""
        batch = batch.to(self._model.base.device)
        with self._model.reference_mode():
            if self._trunk is None:
                return self._model.answer_states(batch).cpu()
            with self._trunk.watched() as left:
                states_ND = self._model.answer_states(batch).cpu()
        self._left += [left_BTD.cpu() for left_BTD in left]
        return states_ND

    @torch.no_grad()
    def _states(self, number: int) -> Tensor:
        """Of a batch, under the active adapter."""
        device = self._model.base.device
        batch = self._batches[number].to(device)
        if self._trunk is None or not self._trunk.is_frozen:
            return self._model.answer_states(batch)
        with self._trunk.skipped(self._left[number].to(device)):
            return self._model.answer_states(batch)


def _first_tokens(pair: Encoded) -> Encoded:
    """The pair with only the first `FIRST_TOKENS` tokens of its answer."""
    kept = pair.input_ids[: pair.given_length + FIRST_TOKENS]
    return replace(pair, input_ids=kept, answer_truncated=pair.answer_length > FIRST_TOKENS)


def _asked(encoder: Encoder, number: int, row: Row, safe: Sequence[str]) -> _Asked:
    answers = [encoder.encode(row.prompt, answer) for answer in row.answers]
    beginnings = dict.fromkeys(_first_tokens(encoder.encode(row.prompt, said)) for said in safe)
    return _Asked(number, (*answers, *beginnings), len(answers))


def _add(
    sums: _Sums, piece: Sequence[_Asked], nll_N: Tensor, kl_N: Tensor, greedy_N: Tensor
) -> None:
    """One batch's tokens, pair by pair."""
    at = 0
    for prompt in piece:
        for number, pair in enumerate(prompt.pairs):
            mine = slice(at, at + pair.answer_length)
            at = mine.stop
            if number < prompt.answers:
                sums.nll += nll_N[mine].double().sum().item()
                sums.kl += kl_N[mine].double().sum().item()
                sums.first_kl += kl_N[mine][:FIRST_TOKENS].double().sum().item()
            elif greedy_N[mine].all():
                sums.refused.add(prompt.row)


def _batch(piece: Sequence[_Asked], packs: bool, pad_id: int) -> Batch:
    if packs:
        return pack([prompt.pairs for prompt in piece])
    return collate([pair for prompt in piece for pair in prompt.pairs], pad_id=pad_id)


def _pieces(asked: Sequence[_Asked], size: int) -> Iterator[list[_Asked]]:
    """Prompts in pieces of at most ``size`` pairs of like length."""
    parts = [part for prompt in asked for part in _parts(prompt, size)]
    parts.sort(key=lambda part: max(len(pair.input_ids) for pair in part.pairs))
    piece: list[_Asked] = []
    for part in parts:
        if piece and sum(len(prompt.pairs) for prompt in piece) + len(part.pairs) > size:
            yield piece
            piece = []
        piece.append(part)
    yield piece


def _parts(prompt: _Asked, size: int) -> Iterator[_Asked]:
    """A prompt with more pairs than go through at once, in parts."""
    for start in range(0, len(prompt.pairs), size):
        pairs = prompt.pairs[start : start + size]
        yield _Asked(prompt.row, pairs, max(0, min(prompt.answers - start, len(pairs))))
