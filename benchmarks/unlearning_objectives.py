"""The objectives of the methods that SKU is compared with, for lora-sku's own training loop.

All of them are sums of three terms on the drawn pairs: the likelihood of harmful answers (ascended
or descended), the likelihood of normal answers, and KL(theta_o || theta_t) on normal answers. Each
term is back-propagated on its own, through the project's chunked losses.

Shape suffixes: N answer tokens of a batch, A answers of a batch.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lora_sku.data import Batch, Encoded, Encoder, Pair, StepDraw
from lora_sku.losses import preservation_divergence, token_nll
from lora_sku.model import AdaptedModel
from lora_sku.reference_states import ReferenceStates
from lora_sku.step import Backward, StepLosses, micro_batches


class PairsOf(Protocol):
    """Which pairs of a draw."""

    __name__: str

    def __call__(self, draw: StepDraw, /) -> Sequence[Pair]:
        """The pairs."""
        ...


def harmful(draw: StepDraw) -> Sequence[Pair]:
    """Harmful prompts with their own answers."""
    return draw.forget


def normal(draw: StepDraw) -> Sequence[Pair]:
    """Normal prompts with their own answers."""
    return draw.retain


def mismatched(draw: StepDraw) -> Sequence[Pair]:
    """Harmful prompts with normal answers to other prompts."""
    assert len(draw.retain) >= len(draw.forget)
    return [
        (prompt, answer) for (prompt, _), (_, answer) in zip(draw.forget, draw.retain, strict=False)
    ]


@dataclass(frozen=True)
class AnswerTerm:
    """The likelihood of some pairs' answers.

    Attributes:
        pairs: Which pairs of a draw.
        weight: Of the mean NLL in the loss that is minimised; below 0 is gradient ascent.
        npo_beta: Makes the ascent of each answer that of NPO with this inverse temperature.
        by_answer: NPO's mean is over answers, each the sum of its tokens, and not over tokens:
            beside a KL for each token it then weighs as much more as an answer is long.
    """

    pairs: PairsOf
    weight: float
    npo_beta: float | None = None
    by_answer: bool = False


@dataclass(frozen=True)
class Objective:
    """A loss that is minimised.

    Attributes:
        answers: Its likelihood terms.
        preserve: Weight of KL(theta_o || theta_t) on normal answers.
    """

    answers: tuple[AnswerTerm, ...]
    preserve: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON; which pairs a term has is told by name."""
        terms = [asdict(term) | {"pairs": term.pairs.__name__} for term in self.answers]
        return {"answers": terms, "preserve": self.preserve}


class ObjectiveGradients:
    """Computes a step's gradients of an `Objective`.

    Every term is divided by its own tokens in the whole step, or by its answers.

    Args:
        model: The base with the adapter in training.
        encoder: Tokenizes the drawn pairs.
        objective: What is minimised.
        micro_batch_prompts: Pairs in the model at once.
        backward: Back-propagates a scalar.
    """

    def __init__(
        self,
        model: AdaptedModel,
        encoder: Encoder,
        objective: Objective,
        micro_batch_prompts: int,
        backward: Backward,
    ) -> None:
        self._model = model
        self._encoder = encoder
        self._objective = objective
        self.micro_batch_prompts = micro_batch_prompts
        self._backward = backward
        self._reference = ReferenceStates(model, None)

    def accumulate(self, draw: StepDraw) -> StepLosses:
        """Add the step's gradients to the adapter's parameters.

        Ascent has no floor, so its losses are no sign of a fault: only the sum is told.
        """
        terms = [self._likelihood(term, term.pairs(draw)) for term in self._objective.answers]
        divergence = None
        if self._objective.preserve > 0:
            divergence, tokens = self._preservation(normal(draw))
            terms.append((self._objective.preserve * divergence, tokens))
        return StepLosses(
            guided_distortion=None,
            random_disassociation=None,
            preservation_divergence=None,
            loss=sum(loss for loss, _ in terms),
            answer_tokens=sum(tokens for _, tokens in terms),
        )

    def _likelihood(self, term: AnswerTerm, pairs: Sequence[Pair]) -> tuple[float, int]:
        """A term's weighted loss and its tokens."""
        encoded = [self._encoder.encode(*pair) for pair in pairs]
        tokens = sum(pair.answer_length for pair in encoded)
        total = 0.0
        for piece, batch in self._batches(encoded):
            if term.npo_beta is None:
                loss = term.weight * self._nll(batch).sum() / tokens
            else:
                reference_A = _by_answer(self._reference_nll(piece, batch), piece)
                nll_N = self._nll(batch)
                log_ratio_A = reference_A - _by_answer(nll_N.detach(), piece)
                weight_A = npo_weights(log_ratio_A, term.npo_beta)
                ascent = (weight_A * _by_answer(nll_N, piece)).sum()
                loss = term.weight * ascent / (len(encoded) if term.by_answer else tokens)
            self._backward(loss)
            total += float(loss.detach())
        return total, tokens

    def _preservation(self, pairs: Sequence[Pair]) -> tuple[float, int]:
        """KL(theta_o || theta_t) in nats per token, and its tokens."""
        encoded = [self._encoder.encode(*pair) for pair in pairs]
        tokens = sum(pair.answer_length for pair in encoded)
        total = 0.0
        for piece, batch in self._batches(encoded):
            reference_ND = self._reference.of(piece, batch)
            loss, divergence = preservation_divergence(
                self._model.answer_states(batch),
                reference_ND,
                self._model.base.head,
                total_tokens=tokens,
            )
            self._backward(self._objective.preserve * loss)
            total += float(divergence)
        return total, tokens

    def _batches(self, encoded: Sequence[Encoded]) -> list[tuple[list[Encoded], Batch]]:
        """Pairs in the order of their batch's targets, and the batch."""
        pieces = micro_batches(
            self._model,
            [[pair] for pair in encoded],
            self.micro_batch_prompts,
            pad_id=self._encoder.pad_id,
        )
        return [([encoded[member] for member in members], batch) for members, batch in pieces]

    def _nll(self, batch: Batch) -> Tensor:
        return token_nll(self._model.answer_states(batch), batch.targets, self._model.base.head)

    @torch.no_grad()
    def _reference_nll(self, piece: Sequence[Encoded], batch: Batch) -> Tensor:
        states_ND = self._reference.of(piece, batch)
        return token_nll(states_ND, batch.targets, self._model.base.head)


def npo_weights(log_ratio_A: Tensor, beta: float) -> Tensor:
    """How much of an answer's ascent NPO keeps: 1 at theta_o, towards 0 as it is forgotten.

    L_NPO = -(2 / beta) log sigmoid(-beta log(pi / pi_ref)) has the gradient W grad log pi with
    W = 2 pi^beta / (pi^beta + pi_ref^beta), which is 2 sigmoid(beta log(pi / pi_ref)).

    Args:
        log_ratio_A: log(pi / pi_ref) of each whole answer, without gradient.
        beta: Inverse temperature; towards 0 this is gradient ascent.

    Source: Zhang et al. 2024, 'Negative Preference Optimization: From Catastrophic Collapse to
    Effective Unlearning' (arXiv 2404.05868).
    """
    return 2 * torch.sigmoid(beta * log_ratio_A)


def _by_answer(value_N: Tensor, pairs: Sequence[Encoded]) -> Tensor:
    """Sums over each answer's tokens (A,)."""
    pieces = torch.split(value_N, [pair.answer_length for pair in pairs])
    return torch.stack([piece.sum() for piece in pieces])
