"""One optimizer step of stage 1: drawn pairs in, gradients and losses out.

Harm and preservation are back-propagated on their own, micro-batch by micro-batch, so the peak of
memory is the larger one's, never the sum. Every term is divided by its tokens in the whole step, so
the gradient does not depend on how the step is cut into micro-batches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from lora_sku.data import Batch, Encoded, Encoder, Pair, StepDraw, collate, pack
from lora_sku.losses import guided_distortion, preservation_divergence, random_disassociation
from lora_sku.model import AdaptedModel
from lora_sku.recipe import LossesSection
from lora_sku.reference_states import ReferenceStates


@dataclass(frozen=True, slots=True)
class StepLosses:
    """The three losses of one step in nats per token; None for a term that weighs 0.

    Attributes:
        guided_distortion: L_GD.
        random_disassociation: L_RD.
        preservation_divergence: KL(theta_o || theta_t), whichever the direction.
        loss: The weighted sum that was minimised.
        answer_tokens: Supervised tokens of all terms.
    """

    guided_distortion: float | None
    random_disassociation: float | None
    preservation_divergence: float | None
    loss: float
    answer_tokens: int

    def terms(self) -> dict[str, float]:
        """The terms that were computed, by name."""
        named = {
            "guided_distortion": self.guided_distortion,
            "random_disassociation": self.random_disassociation,
            "preservation_divergence": self.preservation_divergence,
        }
        return {name: value for name, value in named.items() if value is not None}


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


class StepGradients:
    """Computes the gradients of SKU's step on the model's active adapter.

    Args:
        model: The base with the adapter in training.
        encoder: Tokenizes the drawn pairs.
        losses: Weights and settings of the three terms.
        micro_batch_prompts: Forget prompts that go through the model at once, each with its 1 + k
            answers; retain pairs as many times more as a step draws more of them.
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
        own, random = self._accumulate_harm(draw)
        retain = self._accumulate_preservation(draw)
        return StepLosses(
            guided_distortion=own.value,
            random_disassociation=random.value,
            preservation_divergence=retain.value,
            loss=own.loss + random.loss + retain.loss,
            answer_tokens=own.tokens + random.tokens + retain.tokens,
        )

    def _accumulate_harm(self, draw: StepDraw) -> tuple["_TermResult", "_TermResult"]:
        """Guided distortion and random disassociation; one pass, so that they share the prompts."""
        own_weight = self._losses.guided_distortion.weight
        random_weight = self._losses.random_disassociation.weight
        own = [self._encoded([pair] if own_weight else []) for pair in draw.forget]
        random = [self._encoded(pairs if random_weight else ()) for pairs in draw.random]
        own_tokens, random_tokens = _answer_tokens(own), _answer_tokens(random)
        sums = torch.zeros(2, device=self._model.base.device)
        groups = [a + b for a, b in zip(own, random, strict=True)]
        for members, batch in self._micro_batches(groups, self.micro_batch_prompts):
            is_own = [
                number == 0 and bool(own_weight)
                for member in members
                for number, pair in enumerate(groups[member])
                for _ in range(pair.answer_length)
            ]
            hidden_ND = self._model.answer_states(batch)
            losses = torch.stack(
                [
                    self._cross_entropy(loss_of, hidden_ND, batch.targets, chosen, tokens)
                    for loss_of, chosen, tokens in (
                        (guided_distortion, is_own, own_tokens),
                        (random_disassociation, [not own for own in is_own], random_tokens),
                    )
                ]
            )
            self._backward(own_weight * losses[0] + random_weight * losses[1])
            sums += losses.detach()
        own_value, random_value = sums.tolist()
        return (
            _TermResult.of(own_weight, own_value, own_value, own_tokens),
            _TermResult.of(random_weight, random_value, random_value, random_tokens),
        )

    def _cross_entropy(
        self,
        loss_of: Callable[..., Tensor],
        hidden_ND: Tensor,
        targets_N: Tensor,
        chosen: Sequence[bool],
        total_tokens: int,
    ) -> Tensor:
        """One term's share of a pass over both; 0 for a term that weighs 0."""
        if total_tokens == 0:
            return hidden_ND.new_zeros((), dtype=torch.float32)
        index = torch.tensor(list(compress(range(len(chosen)), chosen)), device=hidden_ND.device)
        head = self._model.base.head
        return loss_of(hidden_ND[index], targets_N[index], head, total_tokens=total_tokens)

    def _accumulate_preservation(self, draw: StepDraw) -> "_TermResult":
        settings = self._losses.preservation_divergence
        if settings.weight == 0:
            return _TermResult.of(0.0, 0.0, 0.0, 0)
        groups = [self._encoded([pair]) for pair in draw.retain]
        tokens = _answer_tokens(groups)
        sums = torch.zeros(2, device=self._model.base.device)
        size = self.micro_batch_prompts * settings.prompts
        for members, batch in self._micro_batches(groups, size):
            pairs = [pair for member in members for pair in groups[member]]
            reference_ND = self._reference.of(pairs, batch)
            loss, divergence = preservation_divergence(
                self._model.answer_states(batch),
                reference_ND,
                self._model.base.head,
                total_tokens=tokens,
                direction=settings.direction,
                bound=settings.bound,
            )
            self._backward(settings.weight * loss)
            sums += torch.stack([loss.detach(), divergence])
        loss_sum, divergence_sum = sums.tolist()
        return _TermResult.of(settings.weight, divergence_sum, loss_sum, tokens)

    def _encoded(self, pairs: Sequence[Pair]) -> list[Encoded]:
        return [self._encoder.encode(*pair) for pair in pairs]

    def _micro_batches(
        self, groups: Sequence[Sequence[Encoded]], size: int
    ) -> Iterator[tuple[Sequence[int], Batch]]:
        return micro_batches(self._model, groups, size, pad_id=self._encoder.pad_id)


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


def _answer_tokens(groups: Sequence[Sequence[Encoded]]) -> int:
    return sum(pair.answer_length for group in groups for pair in group)


@dataclass(frozen=True, slots=True)
class _TermResult:
    """A term's value in nats per token, its weighted loss, and its supervised tokens."""

    value: float | None
    loss: float
    tokens: int

    @classmethod
    def of(cls, weight: float, value: float, loss: float, tokens: int) -> Self:
        """A term that weighs 0 was not computed, so it has no value."""
        return cls(value if weight > 0 else None, weight * loss, tokens)
