"""One optimizer step of stage 1: drawn pairs in, gradients and losses out.

Each loss is taken on the face of the adapter that it is about: harm is learned on theta_o + tau,
and what ships, theta_o - tau, is held and taught there. Every pass is back-propagated on its own,
micro-batch by micro-batch, so the peak of memory is the largest one's, never the sum. Every term is
divided by its tokens in the whole step, so the gradient does not depend on how the step is cut.

Shape suffixes: N answer tokens of a micro-batch, D hidden size.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lora_sku.data import Batch, Encoded, Encoder, Response, StepDraw, collate, pack
from lora_sku.likelihood import FIRST_TOKENS
from lora_sku.losses import (
    guided_distortion,
    held_responses,
    preservation_divergence,
    random_disassociation,
    safe_response,
)
from lora_sku.model import ACQUIRED, NEGATED, AdaptedModel, Side
from lora_sku.recipe import LossesSection
from lora_sku.reference_states import ReferenceStates


@dataclass(slots=True)
class StepLosses:
    """The losses of one step.

    Attributes:
        terms: Name -> nats per token, of every term that weighs more than 0;
            preservation_divergence is the KL itself, whichever the direction, and the mean of both
            sides where it is taken on both.
        loss: The weighted sum that was minimised.
        answer_tokens: Supervised tokens of all terms.
    """

    terms: dict[str, float] = field(default_factory=dict)
    loss: float = 0.0
    answer_tokens: int = 0


Backward = Callable[[Tensor], None]
"""Back-propagates a scalar."""


class Gradients(Protocol):
    """What the training loop steps with: any objective on the drawn pairs.

    Attributes:
        micro_batch_prompts: Forget prompts in the model at once; the loop halves it for good when
            a step runs out of memory, so no gradient may depend on it.
    """

    micro_batch_prompts: int

    def accumulate(self, draw: StepDraw) -> StepLosses:
        """Add the step's gradients to the adapter's parameters."""
        ...


@dataclass(frozen=True, slots=True)
class _Term:
    """One loss in a pass.

    Attributes:
        name: The recipe's.
        weight: Its factor in the sum.
        groups: For each prompt of the pass, its pairs with the answers of this term.
        of: (its share of the answer states, the pairs' targets, theta_o's states or None, token
            weights) -> (what is minimised, what is told), each a scalar.
        needs_reference: Whether theta_o's states are asked for.
    """

    name: str
    weight: float
    groups: Sequence[Sequence[Encoded]]
    of: Callable[[Tensor, Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor]]
    needs_reference: bool = False

    @property
    def tokens(self) -> int:
        """Its answer tokens in the whole step."""
        return _tokens(self.groups)


class StepGradients:
    """Computes the gradients of a step on the model's active adapter.

    Args:
        model: The base with the adapter in training.
        encoder: Tokenizes the drawn pairs.
        losses: Weights and settings of the terms.
        micro_batch_prompts: Forget prompts that go through the model at once, each with its 1 + k
            answers; normal pairs as many times more as a step draws more of them.
        backward: Back-propagates a scalar.
        reference_cache: Where theta_o's states are kept; None computes them anew.
    """

    def __init__(
        self,
        model: AdaptedModel,
        encoder: Encoder,
        losses: LossesSection,
        micro_batch_prompts: int,
        backward: Backward,
        reference_cache: Path | None = None,
    ) -> None:
        self._model = model
        self._encoder = encoder
        self._losses = losses
        self.micro_batch_prompts = micro_batch_prompts
        self._backward = backward
        self._reference = ReferenceStates(model, reference_cache)

    def accumulate(self, draw: StepDraw) -> StepLosses:
        """Add the step's gradients to the adapter's parameters."""
        found = StepLosses()
        few = self.micro_batch_prompts
        many = few * self._losses.preservation_divergence.prompts
        self._pass(ACQUIRED, self._harmful_terms(draw), few, found)
        self._pass(NEGATED, self._safe_terms(draw), few, found)
        self._pass(ACQUIRED, self._normal_terms(draw, ACQUIRED), many, found)
        self._pass(NEGATED, self._normal_terms(draw, NEGATED), many, found)
        return found

    def _harmful_terms(self, draw: StepDraw) -> Iterator[_Term]:
        """Guided distortion and random disassociation; one pass, so that they share the prompts."""
        head, random = self._model.base.head, self._losses.random_disassociation
        own = self._encoded([[pair] for pair in draw.forget])
        tokens = _tokens(own)
        yield _Term(
            "guided_distortion",
            self._losses.guided_distortion.weight,
            own,
            lambda h, y, _, __: _twice(guided_distortion(h, y, head, total_tokens=tokens)),
        )
        others = self._encoded(draw.random)
        other_tokens = _tokens(others)
        answers = random.responses if random.reduction == "sum" else 1
        yield _Term(
            "random_disassociation",
            random.weight * answers,
            others,
            lambda h, y, _, __: _twice(
                random_disassociation(h, y, head, total_tokens=other_tokens)
            ),
        )

    def _safe_terms(self, draw: StepDraw) -> Iterator[_Term]:
        head = self._model.base.head
        groups = self._encoded([[pair] for pair in draw.safe])
        total = self._total_weight(groups)
        yield _Term(
            "safe_response",
            self._losses.safe_response.weight,
            groups,
            lambda h, y, _, w: _twice(safe_response(h, y, w, head, total_weight=total)),
        )

    def _normal_terms(self, draw: StepDraw, side: Side) -> Iterator[_Term]:
        """What keeps normal prompts as they are; an answer and a held response share a prompt."""
        head, settings = self._model.base.head, self._losses.preservation_divergence
        if settings.side in (side, "both"):
            answers = self._encoded([[pair] for pair in draw.normal])
            tokens = _tokens(answers) * (2 if settings.side == "both" else 1)
            yield _Term(
                "preservation_divergence",
                settings.weight,
                answers,
                lambda h, _, reference, __: preservation_divergence(
                    h,
                    _present(reference),
                    head,
                    total_tokens=tokens,
                    direction=settings.direction,
                    bound=settings.bound,
                ),
                needs_reference=True,
            )
        if side == NEGATED:
            held = self._encoded([[pair] for pair in draw.held])
            held_tokens = _tokens(held)
            yield _Term(
                "held_responses",
                self._losses.held_responses.weight,
                held,
                lambda h, _, reference, __: _twice(
                    held_responses(h, _present(reference), head, total_tokens=held_tokens)
                ),
                needs_reference=True,
            )

    def _pass(self, side: Side, terms: Iterator[_Term], size: int, found: StepLosses) -> None:
        """Back-propagate terms that share prompts, on one side, in micro-batches of ``size``."""
        weighed = [term for term in terms if term.weight > 0 and term.tokens > 0]
        if not weighed:
            return
        prompts = list(zip(*(term.groups for term in weighed), strict=True))
        joined = [[pair for group in groups for pair in group] for groups in prompts]
        # Which term each pair belongs to.
        owners = [[n for n, group in enumerate(groups) for _ in group] for groups in prompts]
        sums = torch.zeros(len(weighed), 2, device=self._model.base.device)
        for members, batch in micro_batches(self._model, joined, size, pad_id=self._encoder.pad_id):
            pairs = [pair for member in members for pair in joined[member]]
            owner = [number for member in members for number in owners[member]]
            with self._model.on(side):
                parts = self._parts(weighed, pairs, owner, batch)
                losses = [t.weight * part for t, (part, _) in zip(weighed, parts, strict=True)]
                self._backward(torch.stack(losses).sum())
            sums += torch.stack([torch.stack([a.detach(), b]) for a, b in parts])
        for term, (minimised, value) in zip(weighed, sums.tolist(), strict=True):
            found.terms[term.name] = found.terms.get(term.name, 0.0) + value
            found.loss += term.weight * minimised
            found.answer_tokens += term.tokens

    def _parts(
        self, terms: Sequence[_Term], pairs: Sequence[Encoded], owner: Sequence[int], batch: Batch
    ) -> list[tuple[Tensor, Tensor]]:
        """(what is minimised, what is told) of each term, its share of one micro-batch."""
        device = self._model.base.device
        lengths = [pair.answer_length for pair in pairs]
        term_N = [n for n, length in zip(owner, lengths, strict=True) for _ in range(length)]
        weights_N = torch.tensor([w for pair in pairs for w in self._weights(pair)], device=device)
        if any(term.needs_reference for term in terms):
            hidden_ND, reference_ND = self._reference.beside(pairs, batch)
        else:
            hidden_ND, reference_ND = self._model.answer_states(batch), None
        parts = []
        for number, term in enumerate(terms):
            mine = torch.tensor(
                list(compress(range(len(term_N)), (n == number for n in term_N))),
                dtype=torch.int64,
                device=device,
            )
            states = None if reference_ND is None else reference_ND[mine]
            parts.append(term.of(hidden_ND[mine], batch.targets[mine], states, weights_N[mine]))
        return parts

    def _encoded(self, groups: Sequence[Sequence[Response]]) -> list[list[Encoded]]:
        return [[self._encoder.encode(*pair) for pair in group] for group in groups]

    def _weights(self, pair: Encoded) -> list[float]:
        """Of a safe response's tokens."""
        first = self._losses.safe_response.first_tokens_weight
        return [first if n < FIRST_TOKENS else 1.0 for n in range(pair.answer_length)]

    def _total_weight(self, groups: Sequence[Sequence[Encoded]]) -> float:
        return sum(sum(self._weights(pair)) for group in groups for pair in group)


def micro_batches(
    model: AdaptedModel, groups: Sequence[Sequence[Encoded]], size: int, *, pad_id: int
) -> Iterator[tuple[Sequence[int], Batch]]:
    """A step's pairs in pieces, packed where the architecture can.

    Args:
        model: What the batches are for.
        groups: Pairs of one prompt each.
        size: Groups in a piece.
        pad_id: Fills the ends of rows that are not packed.

    Yields:
        Which groups a piece is made of, and their batch on the device.
    """
    longest = [max(len(pair.input_ids) for pair in group) for group in groups]
    packs = model.base.packing.takes(max(longest))
    order = list(range(len(groups)))
    if not packs:  # rows of like length need the least padding
        order.sort(key=longest.__getitem__)
    for start in range(0, len(order), size):
        members = order[start : start + size]
        piece = [groups[member] for member in members]
        if packs:
            batch = pack(piece)
        else:
            batch = collate([pair for group in piece for pair in group], pad_id=pad_id)
        yield members, batch.to(model.base.device)


def _tokens(groups: Sequence[Sequence[Encoded]]) -> int:
    return sum(pair.answer_length for group in groups for pair in group)


def _twice(loss: Tensor) -> tuple[Tensor, Tensor]:
    """A loss that is told as it is minimised."""
    return loss, loss.detach()


def _present(reference: Tensor | None) -> Tensor:
    assert reference is not None, "the term asked for it"
    return reference
