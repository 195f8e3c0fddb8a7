"""Gradients of answers' likelihood at theta_o, with respect to the B of every adapted layer.

At B = 0 the model is theta_o whatever A is, and this gradient says to first order what a small
delta does to the answers.
"""

import math
from collections.abc import Callable, Sequence

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from lora_sku.data import Batch, Encoded, Encoder, Pair
from lora_sku.errors import TrainingError
from lora_sku.losses import token_nll
from lora_sku.model import AdaptedModel
from lora_sku.step import micro_batches

Pieces = Sequence[Tensor]
"""A number for each entry of every B, float32 on the CPU, in the order of the adapted layers."""

OnPairs = Callable[[int, int], None]
"""Told how many pairs of a pass, of how many, have gone through the model."""


def product(one: Pieces, other: Pieces) -> float:
    """Of all numbers, summed in float64."""
    return sum(float((a.double() * b).sum()) for a, b in zip(one, other, strict=True))


class AnswerGradients:
    """Back-propagates answers through the base under an adapter whose B it sets to 0.

    Args:
        model: Carries the adapter; checkpointing needs it in training mode.
        name: The adapter's. Its dropout is off from now on: the gradient is theta_o's, not that of
            a draw of dropped inputs.
        encoder: Tokenizes the pairs.
        pairs_at_once: Prompts with an answer in the model at once; halved for good when memory
            runs out.
        where: The recipe's key that asks for this, for errors.
        on_pairs: Told of progress.

    Attributes:
        layers: Those that carry the adapter.
        factors: B of each.
        learned: What they held.
        answer_tokens: That were back-propagated so far.
        pairs_at_once: That memory does for, as far as is known.
    """

    def __init__(
        self,
        model: AdaptedModel,
        name: str,
        encoder: Encoder,
        *,
        pairs_at_once: int,
        where: str,
        on_pairs: OnPairs = lambda *_: None,
    ) -> None:
        self.model = model
        self.name = name
        self.encoder = encoder
        self.layers = [layer for layer in model.adapted_layers if name in layer.lora_B]
        self.factors = [layer.lora_B[name].weight for layer in self.layers]
        self.answer_tokens = 0
        self.pairs_at_once = pairs_at_once
        self._where = where
        self._on_pairs = on_pairs
        for layer in self.layers:
            layer.lora_dropout[name].eval()
        self.learned: Pieces = [factor.detach().to("cpu", copy=True) for factor in self.factors]
        self.write([torch.zeros_like(factor) for factor in self.factors])

    @torch.no_grad()
    def write(self, values: Sequence[Tensor]) -> None:
        """Put numbers into every B."""
        for factor, value in zip(self.factors, values, strict=True):
            factor.copy_(value)

    def mean(self, pairs: Sequence[Pair]) -> list[Tensor]:
        """Gradient of the answers' mean NLL, nats per token.

        Raises:
            TrainingError: if memory does not do for a single pair.
        """
        encoded = [self.encoder.encode(*pair) for pair in pairs]
        tokens = sum(pair.answer_length for pair in encoded)
        head = self.model.base.head

        def loss_of(_: Sequence[int], batch: Batch) -> Tensor:
            # Not divided before the backward pass: in half precision that could run under.
            return token_nll(self.model.answer_states(batch), batch.targets, head).sum()

        self.back_propagate(encoded, loss_of)
        found = [
            torch.zeros_like(factor, device="cpu")
            if factor.grad is None
            else factor.grad.cpu().div_(tokens)
            for factor in self.factors
        ]
        self._forget_gradients()
        return found

    def back_propagate(
        self, encoded: Sequence[Encoded], loss_of: Callable[[Sequence[int], Batch], Tensor]
    ) -> None:
        """Add up the gradients of losses; all from the start, in smaller pieces, out of memory.

        Args:
            encoded: Pairs.
            loss_of: Which pairs are in a batch, and the batch -> a scalar.

        Raises:
            TrainingError: if memory does not do for a single pair.
        """
        groups = [[pair] for pair in encoded]
        while True:
            self._forget_gradients()
            done = 0
            try:
                for members, batch in micro_batches(
                    self.model, groups, self.pairs_at_once, pad_id=self.encoder.pad_id
                ):
                    loss_of(members, batch).backward()  # type: ignore[no-untyped-call]
                    done += len(members)
                    self._on_pairs(done, len(groups))
                self.answer_tokens += sum(pair.answer_length for pair in encoded)
                return
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                if self.pairs_at_once == 1:
                    raise TrainingError(
                        "out of memory with a single answer at once",
                        where=self._where,
                        remedy="Lower data.max_answer_tokens, or set this to null.",
                    ) from error
            self.pairs_at_once = math.ceil(self.pairs_at_once / 2)
            if self.model.base.device.type == "cuda":
                torch.cuda.empty_cache()

    def _forget_gradients(self) -> None:
        for parameter in self.model.adapter_parameters().values():
            parameter.grad = None
