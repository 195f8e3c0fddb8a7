"""What a model says of given answers, again and again: theta_o is run once, the adapter each time.

`evaluation` scores one adapter; this scores the same answers under many strengths of one. theta_o's
states are kept in the machine's memory (hidden size x 2 bytes an answer token), and what leaves the
layers below the adapter as well (as much for every token). A prompt goes through the model once for
all its answers where the architecture can pack them.

Shape suffixes: N answer tokens of a batch, D hidden size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_sku.data import Batch, Encoded, Encoder, Row, collate, pack
from lora_sku.frozen_trunk import frozen_trunk
from lora_sku.losses import token_nll, token_nll_and_kl
from lora_sku.model import AdaptedModel


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Means over all answer tokens, nats per token.

    Attributes:
        nll: Negative log-likelihood of the answers.
        kl: KL(theta_o || model).
    """

    nll: float
    kl: float


class AnswerScorer:
    """Scores the active adapter on every answer of some rows.

    Args:
        model: In evaluation mode.
        encoder: Tokenizes.
        rows: At least one.
        pairs_at_once: Prompts with an answer in the model at once.
    """

    def __init__(
        self, model: AdaptedModel, encoder: Encoder, rows: Sequence[Row], *, pairs_at_once: int
    ) -> None:
        self._model = model
        groups = [[encoder.encode(row.prompt, answer) for answer in row.answers] for row in rows]
        longest = max(len(pair.input_ids) for group in groups for pair in group)
        pieces = list(_pieces(groups, pairs_at_once))
        if model.base.packing.takes(longest):
            self._batches = [pack(piece) for piece in pieces]
        else:
            self._batches = [
                collate([pair for group in piece for pair in group], pad_id=encoder.pad_id)
                for piece in pieces
            ]
        self.tokens = sum(len(batch.targets) for batch in self._batches)
        self._trunk = frozen_trunk(model)
        self._left: list[Tensor] = []  # what leaves the trunk, of each batch
        self._base_states = [self._first_pass(batch) for batch in self._batches]
        self.base_nll = self._mean_nll()

    def score(self) -> Likelihood:
        """Of the active adapter as it is now."""
        head = self._model.base.head
        nll = kl = 0.0
        for number, batch in enumerate(self._batches):
            states_ND, base_ND = self._states(number), self._base_states[number]
            targets_N = batch.targets.to(states_ND.device)
            reference_ND = base_ND.to(states_ND.device)
            nll_N, kl_N = token_nll_and_kl(states_ND, reference_ND, targets_N, head)
            nll += nll_N.double().sum().item()
            kl += kl_N.double().sum().item()
        return Likelihood(nll / self.tokens, kl / self.tokens)

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

    def _mean_nll(self) -> float:
        head, device = self._model.base.head, self._model.base.device
        sums = (
            token_nll(base_ND.to(device), batch.targets.to(device), head).double().sum().item()
            for batch, base_ND in zip(self._batches, self._base_states, strict=True)
        )
        return sum(sums) / self.tokens


def _pieces(groups: Sequence[Sequence[Encoded]], size: int) -> Iterator[list[list[Encoded]]]:
    """The groups, each a prompt's answers, in pieces of at most ``size`` pairs of like length."""
    parts = [list(group[i : i + size]) for group in groups for i in range(0, len(group), size)]
    parts.sort(key=lambda part: max(len(pair.input_ids) for pair in part))
    piece: list[list[Encoded]] = []
    for part in parts:
        if piece and sum(map(len, piece)) + len(part) > size:
            yield piece
            piece = []
        piece.append(part)
    yield piece
