"""One optimizer step of stage 1: drawn pairs in, gradients and losses out.

Each loss is back-propagated micro-batch by micro-batch on its own, so the peak of memory is the
largest term's, never the sum. Every term is divided by its tokens in the whole step, so the
gradient does not depend on how the step is cut into micro-batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lora_sku.data import Batch, Encoder, Pair, StepDraw, collate
from lora_sku.losses import guided_distortion, preservation_divergence, random_disassociation
from lora_sku.model import AdaptedModel
from lora_sku.recipe import LossesSection


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


class StepGradients:
    """Computes a step's gradients on the model's active adapter.

    Args:
        model: The base with the adapter in training.
        encoder: Tokenizes the drawn pairs.
        losses: Weights and settings of the three terms.
        micro_batch_prompts: Prompts that go through the model at once; in the random
            disassociation each of them is k rows.
        backward: Back-propagates a scalar.
    """

    def __init__(
        self,
        model: AdaptedModel,
        encoder: Encoder,
        losses: LossesSection,
        micro_batch_prompts: int,
        backward: Callable[[Tensor], None],
    ) -> None:
        self._model = model
        self._encoder = encoder
        self._losses = losses
        self._micro_batch_prompts = micro_batch_prompts
        self._backward = backward

    def accumulate(self, draw: StepDraw) -> StepLosses:
        """Add the step's gradients to the adapter's parameters."""
        gd = self._accumulate_term(
            [[pair] for pair in draw.forget],
            self._losses.guided_distortion.weight,
            self._guided_distortion,
        )
        rd = self._accumulate_term(
            draw.random, self._losses.random_disassociation.weight, self._random_disassociation
        )
        pd = self._accumulate_term(
            [[pair] for pair in draw.retain],
            self._losses.preservation_divergence.weight,
            self._preservation_divergence,
        )
        return StepLosses(
            guided_distortion=gd.value,
            random_disassociation=rd.value,
            preservation_divergence=pd.value,
            loss=gd.loss + rd.loss + pd.loss,
            answer_tokens=gd.tokens + rd.tokens + pd.tokens,
        )

    def _accumulate_term(
        self,
        prompts: Sequence[Sequence[Pair]],
        weight: float,
        loss_of: Callable[[Batch, int], tuple[Tensor, Tensor]],
    ) -> "_TermResult":
        if weight == 0:
            return _TermResult(None, 0.0, 0)
        batches = self._micro_batches(prompts)
        tokens = sum(batch.n_answer_tokens for batch in batches)
        sums = torch.zeros(2, device=self._model.base.device)
        for batch in batches:
            loss, value = loss_of(batch.to(self._model.base.device), tokens)
            self._backward(weight * loss)
            sums += torch.stack([loss.detach(), value.detach()])
        loss_sum, value_sum = sums.tolist()
        return _TermResult(value_sum, weight * loss_sum, tokens)

    def _micro_batches(self, prompts: Sequence[Sequence[Pair]]) -> list[Batch]:
        size = self._micro_batch_prompts
        pieces = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        return [
            collate(
                [self._encoder.encode(*pair) for pairs in piece for pair in pairs],
                pad_id=self._encoder.pad_id,
            )
            for piece in pieces
        ]

    def _guided_distortion(self, batch: Batch, total_tokens: int) -> tuple[Tensor, Tensor]:
        hidden_ND, targets_N = self._model.answer_states(batch)
        head = self._model.base.head
        loss = guided_distortion(hidden_ND, targets_N, head, total_tokens=total_tokens)
        return loss, loss

    def _random_disassociation(self, batch: Batch, total_tokens: int) -> tuple[Tensor, Tensor]:
        hidden_ND, targets_N = self._model.answer_states(batch)
        head = self._model.base.head
        loss = random_disassociation(hidden_ND, targets_N, head, total_tokens=total_tokens)
        return loss, loss

    def _preservation_divergence(self, batch: Batch, total_tokens: int) -> tuple[Tensor, Tensor]:
        with torch.no_grad(), self._model.reference_mode():
            reference_ND, _ = self._model.answer_states(batch)
        hidden_ND, _ = self._model.answer_states(batch)
        settings = self._losses.preservation_divergence
        return preservation_divergence(
            hidden_ND,
            reference_ND,
            self._model.base.head,
            total_tokens=total_tokens,
            direction=settings.direction,
            bound=settings.bound,
        )


@dataclass(frozen=True, slots=True)
class _TermResult:
    """A term's value in nats per token, its weighted loss, and its supervised tokens."""

    value: float | None
    loss: float
    tokens: int
