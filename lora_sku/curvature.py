"""How far theta_o's answers to normal prompts move under a small delta: KL's Kronecker factors.

KL(theta_o || theta_t) has neither a value nor a slope at theta_o; what it has there is its second
derivative, the Fisher information. For the B of one layer, whose effect on the output is
s B A x, it is taken as a product (K-FAC),

    F = s^2 E (x) G,   E = mean over positions (A x)(A x)^T,   G = mean over positions g g^T,

with g the gradient that arrives at the layer's output when the answer's tokens are drawn from the
model itself, which makes it KL's own curvature and not that of some labels. Layers are taken as
independent. Both factors are damped by a share of their mean eigenvalue.

F knows nothing of answers that the model never gives. Where some of those must not become likelier
either, they are given: the same moments, with g the gradient of their own tokens, are averaged in.

What is kept of a pass are the gradients at drawn positions (`kronecker` divides by them). There is
a backward pass over the drawn answers for each of the `sample_groups` of layers; samples lie in the
machine's memory, not on the GPU.

Source: Martens and Grosse 2015, 'Optimizing Neural Networks with Kronecker-factored Approximate
Curvature' (arXiv 1503.05671), section 3 and, for the damping, 6.3 (here without its balance between
the factors).

Shape suffixes: N answer tokens of a batch, T positions of a batch, P drawn positions, I in
features, O out features, R rank.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from lora_sku.data import Batch, Encoded, Pair
from lora_sku.errors import AdapterError, TrainingError
from lora_sku.gradients import AnswerGradients, Pieces
from lora_sku.head import Head
from lora_sku.heap import release_free_memory
from lora_sku.kronecker import Kronecker, OutputSample
from lora_sku.losses import drawn_targets, token_nll
from lora_sku.projection import sample_groups


def natural(
    gradients: AnswerGradients,
    pairs: Sequence[Pair],
    vectors: Sequence[Pieces],
    *,
    tokens: int,
    damping: float,
    seed: int,
    given: Sequence[Pair] = (),
) -> list[list[Tensor]]:
    """F^-1 of vectors, with F of theta_o at the answers of normal pairs.

    Args:
        gradients: Of the model.
        pairs: Normal prompts with answers.
        vectors: To divide, each with a piece for every adapted layer.
        tokens: Positions that are drawn among all pairs'; all of them if there are fewer.
        damping: Share of each factor's mean eigenvalue that is added to it.
        seed: Decides which positions are drawn, and what the model answers in the answers' place.
        given: Further normal prompts whose answers stand as they are.

    Returns:
        For each vector, its pieces divided.

    Raises:
        AdapterError: if an adapted layer does not read every token (a routed expert).
        TrainingError: if memory does not do for a single pair, or a gradient is not finite.
    """
    encode = gradients.encoder.encode
    encoded = [encode(*pair) for pair in (*pairs, *given)]
    draw = Draw.of(encoded, tokens, seed, given=len(given))
    found: list[list[Tensor]] = [[] for _ in vectors]
    itemsize = gradients.model.base.compute_dtype.itemsize
    for group in sample_groups(
        gradients.layers,
        lambda layer: _sample_bytes(layer, gradients.name, draw.count, itemsize),
    ):
        samples = sample_outputs(gradients, group, draw)
        while samples:  # popped, so that a sample that is done with is freed
            layer, sample = samples.pop(0)
            _refuse_useless(sample)
            number = len(found[0])
            scaling = float(layer.scaling[gradients.name])
            factors = Kronecker(sample, scaling, damping, gradients.model.base.device)
            for vector, divided in zip(vectors, found, strict=True):
                divided.append(factors.divide(vector[number]))
            # No module runs here, before which it would be handed back: 3 GiB without this.
            del sample, factors
            release_free_memory()
    return found


@dataclass(frozen=True)
class Draw:
    """Pairs, which of their positions are sampled, and what the model answers there.

    Prompt and answer positions alike: the delta acts on both, and an answer is read through what
    the prompt's positions became. All of it is drawn before any pass, so nothing depends on what
    shares a batch.

    Attributes:
        encoded: The pairs.
        places: Of each pair, the sampled positions among those that the model reads.
        slots: Of each pair, where they stand among all sampled ones.
        uniform: Of each pair, a number in [0, 1) for every answer token, float64.
        given: Of each pair, whether its answer stands as it is.
        count: Sampled positions, P.
    """

    encoded: tuple[Encoded, ...]
    places: tuple[Tensor, ...]
    slots: tuple[Tensor, ...]
    uniform: tuple[Tensor, ...]
    given: tuple[bool, ...]
    count: int

    @classmethod
    def of(cls, encoded: Sequence[Encoded], tokens: int, seed: int, *, given: int = 0) -> Self:
        """Draw at most ``tokens`` positions; the answers of the last ``given`` pairs stand."""
        generator = torch.Generator().manual_seed(seed)
        answers = [pair.answer_length for pair in encoded]
        uniform = torch.rand(sum(answers), generator=generator, dtype=torch.float64)
        read = [_positions(pair) for pair in encoded]
        is_drawn = torch.zeros(sum(read), dtype=torch.bool)
        is_drawn[torch.randperm(sum(read), generator=generator)[:tokens]] = True
        places = tuple(part.nonzero()[:, 0] for part in torch.split(is_drawn, read))
        count = min(tokens, sum(read))
        slots = torch.split(torch.arange(count), [len(part) for part in places])
        stand = (False,) * (len(encoded) - given) + (True,) * given
        return cls(tuple(encoded), places, slots, torch.split(uniform, answers), stand, count)

    def of_batch(self, members: Sequence[int], batch: Batch) -> tuple[Tensor, Tensor]:
        """Sampled ones among a batch's positions, and their slots."""
        width = batch.input_ids.shape[1]
        widths = [_positions(self.encoded[m]) if batch.layout else width for m in members]
        starts = [0, *accumulate(widths)]
        index = [self.places[m] + start for m, start in zip(members, starts, strict=False)]
        return torch.cat(index), torch.cat([self.slots[member] for member in members])

    def targets(
        self, members: Sequence[int], batch: Batch, states_ND: Tensor, head: Head
    ) -> Tensor:
        """What the model answers in a batch, by its own likelihoods; given answers stand. (N,)"""
        uniform_N = torch.cat([self.uniform[member] for member in members])
        stands_N = torch.cat(
            [torch.full_like(self.uniform[m], self.given[m], dtype=torch.bool) for m in members]
        )
        drawn_N = drawn_targets(states_ND.detach(), head, uniform_N)
        return torch.where(stands_N.to(drawn_N.device), batch.targets, drawn_N)


def _positions(pair: Encoded) -> int:
    """An answer's last token predicts nothing and is not read."""
    return len(pair.input_ids) - 1


def sample_outputs(
    gradients: AnswerGradients, group: Sequence[LoraLayer], draw: Draw
) -> list[tuple[LoraLayer, OutputSample]]:
    """The samples of some layers, by one backward pass over all pairs.

    Raises:
        AdapterError: if an adapted layer does not read every token (a routed expert).
        TrainingError: if memory does not do for a single pair.
    """
    model, name = gradients.model, gradients.name
    kept = [(layer, _empty(layer, name, draw.count, model.base.compute_dtype)) for layer in group]

    def loss_of(members: Sequence[int], batch: Batch) -> Tensor:
        index, slots = draw.of_batch(members, batch)
        at = index.to(batch.input_ids.device)
        with _watched(kept, name, batch.input_ids.numel(), at, slots):
            states_ND = model.answer_states(batch)
        targets_N = draw.targets(members, batch, states_ND, model.base.head)
        return token_nll(states_ND, targets_N, model.base.head).sum()

    gradients.back_propagate(draw.encoded, loss_of)
    return kept


@contextmanager
def _watched(
    kept: Sequence[tuple[LoraLayer, OutputSample]],
    name: str,
    positions: int,
    at: Tensor,
    slots: Tensor,
) -> Iterator[None]:
    """While layers run, keep A x at some positions; later the gradient of the output there."""

    def hook_of(sample: OutputSample) -> Callable[[Any, tuple[Tensor, ...], Tensor], None]:
        def hook(layer: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            x_TI = args[0].detach().flatten(0, -2)
            if len(x_TI) != positions:
                raise AdapterError(
                    "an adapted layer does not read every token, so its curvature is not known",
                    where="adapter.target_modules",
                    remedy="Leave routed experts out, or set training.natural_step to null.",
                )
            a_RI = layer.lora_A[name].weight.detach()
            sample.response_PR[slots] = (x_TI[at].float() @ a_RI.float().T).cpu()
            output.register_hook(keep)  # type: ignore[no-untyped-call]

        def keep(gradient: Tensor) -> None:
            sample.gradient_PO[slots] = gradient.flatten(0, -2)[at].cpu()

        return hook

    handles = [layer.register_forward_hook(hook_of(sample)) for layer, sample in kept]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _empty(layer: LoraLayer, name: str, positions: int, dtype: torch.dtype) -> OutputSample:
    features, rank = layer.lora_B[name].weight.shape
    gradient_PO = torch.zeros(positions, features, dtype=dtype)
    return OutputSample(gradient_PO, torch.zeros(positions, rank))


def _refuse_useless(sample: OutputSample) -> None:
    """Half precision can run over or under; neither can be divided by."""
    largest = float(sample.gradient_PO.abs().max())
    if not (0 < largest < math.inf and bool(sample.response_PR.isfinite().all())):
        raise TrainingError(
            f"the largest gradient at a layer's output is {largest:g}, so distances are not known",
            where="training.natural_step",
            remedy="Set base_model.compute_dtype to bfloat16 or float32, or this to null.",
        )


def _sample_bytes(layer: LoraLayer, name: str, positions: int, itemsize: int) -> int:
    features, rank = layer.lora_B[name].weight.shape
    return positions * int(features * itemsize + rank * 4)
