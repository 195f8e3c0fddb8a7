"""The objectives of other methods, for lora-sku's own training loop on the same draws.

All are taken on the face that ships, theta = theta_o - tau, and back-propagated in micro-batches
through the project's chunked losses. Each adds a retain term on normal prompts, hard negatives
among them, to what it does to harmful ones:

    nll: -(1/N) sum over the step's N normal answer tokens of log p_theta(token)
    kl:  (1/N) sum over the same tokens of KL(theta_o || theta), which is ours

Shape suffixes: A answers of a micro-batch, N answer tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lora_sku.acquisition import Objective
from lora_sku.data import Batch, Encoded, Encoder, Response, StepDraw
from lora_sku.losses import preservation_divergence, token_nll
from lora_sku.model import NEGATED, AdaptedModel
from lora_sku.reference_states import ReferenceStates
from lora_sku.step import Backward, StepLosses, micro_batches


@dataclass(frozen=True)
class Retain:
    """What keeps normal prompts as they are.

    Attributes:
        kind: Likelihood of their answers, or KL to theta_o there.
        weight: Its factor in the sum; 0 is no term.
    """

    kind: Literal["nll", "kl"]
    weight: float


@dataclass(frozen=True)
class _Piece:
    """Pairs in the order of their batch's targets, and how many of each the whole step has."""

    pairs: Sequence[Encoded]
    batch: Batch
    prompts: int
    tokens: int


class Rival(ABC):
    """Computes a step's gradients of one objective and its retain term.

    Args:
        model: The base with the adapter in training.
        encoder: Tokenizes the drawn pairs.
        retain: What keeps normal prompts.
        backward: Back-propagates a scalar.
        micro_batch_prompts: Forget prompts in the model at once; normal ones as many times more as
            a step draws more of them.
    """

    def __init__(
        self,
        model: AdaptedModel,
        encoder: Encoder,
        retain: Retain,
        backward: Backward,
        micro_batch_prompts: int,
    ) -> None:
        self._model = model
        self._encoder = encoder
        self._retain = retain
        self._backward = backward
        self.micro_batch_prompts = micro_batch_prompts
        self._states = ReferenceStates(model, None)

    def accumulate(self, draw: StepDraw) -> StepLosses:
        """Add the step's gradients to the adapter's parameters.

        No term is told by name: what these objectives minimise is not in nats per token, and falls
        without end in some, which the loop would take for a fault.
        """
        found = StepLosses()
        with self._model.on(NEGATED):
            for loss, batch in chain(self._forget(draw), self._keep(draw)):
                self._backward(loss)
                found.loss += float(loss.detach())
                found.answer_tokens += len(batch.targets)
        return found

    @abstractmethod
    def _forget(self, draw: StepDraw) -> Iterator[tuple[Tensor, Batch]]:
        """Each micro-batch's share of what is minimised on harmful prompts."""

    def _keep(self, draw: StepDraw) -> Iterator[tuple[Tensor, Batch]]:
        """The same of the retain term."""
        if self._retain.weight == 0:
            return
        size = self.micro_batch_prompts * -(-len(draw.normal) // len(draw.forget))
        for piece in self._pieces([[pair] for pair in draw.normal], size):
            value = self._preserved if self._retain.kind == "kl" else self._likely
            yield self._retain.weight * value(piece), piece.batch

    def _likely(self, piece: _Piece) -> Tensor:
        return -self._log_p(piece).sum() / piece.tokens

    def _preserved(self, piece: _Piece) -> Tensor:
        hidden_ND, reference_ND = self._states.beside(piece.pairs, piece.batch)
        head = self._model.base.head
        return preservation_divergence(hidden_ND, reference_ND, head, total_tokens=piece.tokens)[0]

    def _pieces(self, groups: Sequence[Sequence[Response]], size: int) -> Iterator[_Piece]:
        """Micro-batches of ``size`` prompts, each with its answers."""
        encoded = [[self._encoder.encode(*pair) for pair in group] for group in groups]
        tokens = sum(pair.answer_length for group in encoded for pair in group)
        pad_id = self._encoder.pad_id
        for members, batch in micro_batches(self._model, encoded, size, pad_id=pad_id):
            pairs = [pair for member in members for pair in encoded[member]]
            yield _Piece(pairs, batch, len(groups), tokens)

    def _log_p(self, piece: _Piece) -> Tensor:
        """log p_theta of each whole answer (A,)."""
        return self._of_answers(self._model.answer_states(piece.batch), piece)

    def _log_ratio(self, piece: _Piece) -> Tensor:
        """log(p_theta / p_ref) of each whole answer (A,); p_ref is theta_o's."""
        states_ND, reference_ND = self._states.beside(piece.pairs, piece.batch)
        with torch.no_grad():
            reference_A = self._of_answers(reference_ND, piece)
        return self._of_answers(states_ND, piece) - reference_A

    def _of_answers(self, states_ND: Tensor, piece: _Piece) -> Tensor:
        nll_N = token_nll(states_ND, piece.batch.targets, self._model.base.head)
        answers = torch.split(nll_N, [pair.answer_length for pair in piece.pairs])
        return -torch.stack([answer.sum() for answer in answers])


class NPO(Rival):
    """Negative preference optimization: a harmful answer y to x is made unlikely, then let go.

    L = (2 / beta) mean over prompts of -log sigmoid(-beta log(p_theta(y|x) / p_ref(y|x)))

    ``beta`` is the inverse temperature: towards 0 this is gradient ascent; p_ref is theta_o.

    Source: Zhang et al. 2024, 'Negative Preference Optimization: From Catastrophic Collapse to
    Effective Unlearning' (arXiv 2404.05868).
    """

    beta = 0.1

    def _forget(self, draw: StepDraw) -> Iterator[tuple[Tensor, Batch]]:
        for piece in self._pieces([[pair] for pair in draw.forget], self.micro_batch_prompts):
            losses_A = softplus(self.beta * self._log_ratio(piece))  # -log sigmoid(-x)
            yield 2 / self.beta * losses_A.sum() / piece.prompts, piece.batch


class DPO(Rival):
    """Direct preference optimization: a safe response s is preferred over the harmful answer y.

    L = mean over prompts of
        -log sigmoid(beta (log(p_theta(s|x) / p_ref(s|x)) - log(p_theta(y|x) / p_ref(y|x))))

    Where a draw lets the harmful answer begin, x in front of s has its first words too.

    Source: Rafailov et al. 2023, 'Direct Preference Optimization: Your Language Model is Secretly a
    Reward Model' (arXiv 2305.18290); as a way to unlearn in Maini et al. 2024, 'TOFU'
    (arXiv 2401.06121).
    """

    beta = 0.1

    def _forget(self, draw: StepDraw) -> Iterator[tuple[Tensor, Batch]]:
        groups = list(zip(draw.safe, draw.forget, strict=True))
        for piece in self._pieces(groups, self.micro_batch_prompts):
            safe_A, harmful_A = self._log_ratio(piece).view(-1, 2).unbind(1)
            losses_A = softplus(-self.beta * (safe_A - harmful_A))
            yield losses_A.sum() / piece.prompts, piece.batch


class GradientAscent(Rival):
    """The likelihood of harmful answers, descended without a floor.

    L = (1/N) sum over the step's N harmful answer tokens of log p_theta(token)

    Source: Jang et al. 2023, 'Knowledge Unlearning for Mitigating Privacy Risks in Language Models'
    (arXiv 2210.01504); with a KL on normal prompts in Yao et al. 2023, 'Large Language Model
    Unlearning' (arXiv 2310.10683).
    """

    def _forget(self, draw: StepDraw) -> Iterator[tuple[Tensor, Batch]]:
        for piece in self._pieces([[pair] for pair in draw.forget], self.micro_batch_prompts):
            yield self._log_p(piece).sum() / piece.tokens, piece.batch


def objective(kind: type[Rival], retain: Retain) -> Objective:
    """What `lora_sku.pipeline.run` takes in place of the recipe's losses."""
    return lambda model, encoder: (
        lambda backward, prompts: kind(model, encoder, retain, backward, prompts)
    )


# The demo recipe's own weight of the KL, where the method's authors leave the term open.
_OUR_KL = Retain("kl", 6.0)
OBJECTIVES: Mapping[str, Objective] = {
    "npo": objective(NPO, Retain("nll", 1.0)),
    "dpo": objective(DPO, _OUR_KL),
    "ga": objective(GradientAscent, _OUR_KL),
}
