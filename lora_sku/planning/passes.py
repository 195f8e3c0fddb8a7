"""A forward and backward pass's bytes at each moment where memory can peak.

Shape suffixes: B rows, T tokens of a row, N answer tokens, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import nn

from lora_sku.base_checks import read_head
from lora_sku.losses import guided_distortion, preservation_divergence
from lora_sku.planning.layers import LayerBytes, LayerSetup, Tokens, count_layers
from lora_sku.planning.live import LiveBytes
from lora_sku.planning.shapes import ModelShape
from lora_sku.planning.standins import Sink, Source


@dataclass(frozen=True, slots=True)
class Pass:
    """Tokens through the model and the loss on their answers.

    Attributes:
        name: What it is for.
        load: Rows and tokens.
        answers: Answer tokens of each loss term of the pass.
        loss: Cross-entropy to targets, or KL to reference states of the same positions.
    """

    name: str
    load: Tokens
    answers: tuple[int, ...]
    loss: Literal["nll", "kl"]


@dataclass(frozen=True, slots=True)
class Moment:
    """Bytes beside the weights at one point of a pass.

    Attributes:
        name: Which point.
        activations: Kept for backward by the layers that are not at work.
        layer: One layer at work: what it makes, keeps and hands on.
        loss: Hidden states, logits of a chunk, and the gradient towards the hidden states.
    """

    name: str
    activations: int = 0
    layer: int = 0
    loss: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.activations + self.layer + self.loss


def training_moments(
    shape: ModelShape, setup: LayerSetup, work: Pass, *, checkpointing: bool
) -> tuple[Moment, ...]:
    """The moments of one micro-batch: forward, loss, backward.

    With checkpointing a layer keeps its input alone, C = B T D bytes-of-dtype, and its forward is
    run again before its backward. Without, it keeps all that its backward needs.
    """
    layers = count_layers(shape, setup, work.load)
    mask = mask_bytes(shape, work.load)
    hidden = hidden_bytes(shape, work.load)
    kept = [layer_kept(layer, hidden, checkpointing=checkpointing) for layer in layers]
    tail = count_loss(shape, work)
    moments = [Moment(f"{work.name}: loss", mask + sum(kept), loss=tail.forward_peak)]
    if work.loss == "kl":  # theta_o's states are made while all is kept
        base = count_layers(shape, without_adapters(setup), work.load)
        at_work = max(layer.forward_peak for layer in base)
        moments.append(Moment(f"{work.name}: reference", mask + sum(kept), at_work, tail.answers))
    for index, layer in enumerate(layers):
        below = mask + sum(kept[:index])
        if not checkpointing or not layer.backward_peak:
            moments.append(Moment(f"{work.name}: forward", below, layer.forward_peak))
        if not layer.backward_peak:
            continue
        # Run again, beside the gradient that waits for it; its kept input is its own first tensor.
        again = max(layer.forward_peak, layer.backward_peak) + hidden
        at_work = again if checkpointing else layer.backward_peak
        moments.append(Moment(f"{work.name}: backward", below, at_work))
    return tuple(moments)


def scoring_moments(shape: ModelShape, setup: LayerSetup, work: Pass) -> tuple[Moment, ...]:
    """The moments of a forward pass without gradients."""
    mask = mask_bytes(shape, work.load)
    with torch.no_grad():
        layers = count_layers(shape, without_gradient(setup), work.load)
        tail = count_loss(shape, work)
    at_work = max(layer.forward_peak for layer in layers)
    return (
        Moment(f"{work.name}: forward", mask, at_work, tail.answers),
        Moment(f"{work.name}: loss", mask, loss=tail.forward_peak),
    )


def without_gradient(setup: LayerSetup) -> LayerSetup:
    """The same layers where nothing is trained: adapters run, nothing is kept."""
    return LayerSetup(setup.kind, setup.rank, setup.adapted, trains=False)


def without_adapters(setup: LayerSetup) -> LayerSetup:
    """The same layers as theta_o's, nothing trained."""
    return LayerSetup(setup.kind, setup.rank, frozenset(), trains=False)


def layer_kept(layer: LayerBytes, hidden: int, *, checkpointing: bool) -> int:
    """What a layer keeps between its forward and its backward."""
    if not layer.backward_peak:
        return 0
    return hidden if checkpointing else layer.saved


def hidden_bytes(shape: ModelShape, load: Tokens) -> int:
    """C: the hidden states between two layers."""
    return load.count * shape.hidden_size * shape.model.dtype.itemsize


def mask_bytes(shape: ModelShape, load: Tokens) -> int:
    """The boolean mask of left-padded rows, one for all layers; attention casts it once a layer."""
    return load.masked * load.rows * load.tokens**2 * (1 + shape.model.dtype.itemsize)


@dataclass(frozen=True, slots=True)
class TailBytes:
    """From the last layer's output to the loss and back.

    Attributes:
        answers: States of the answers, and what the final norm keeps.
        forward_peak: The most up to the loss.
        saved: Alive after the loss.
        backward_peak: The most from the loss back to the last layer's output.
    """

    answers: int
    forward_peak: int
    saved: int
    backward_peak: int


def count_loss(shape: ModelShape, work: Pass) -> TailBytes:
    """Final norm, answer positions and the product's own loss functions, on meta tensors.

    As in `step`: theta_o's states come after those with gradient, and each term takes its own
    answers out of both. What weighs a token costs nothing to speak of: (N,) beside (N, D).
    """
    return _count_loss(shape, work, torch.is_grad_enabled())


@lru_cache(maxsize=1024)
def _count_loss(shape: ModelShape, work: Pass, with_grad: bool) -> TailBytes:
    dtype, width = shape.model.dtype, shape.hidden_size
    head = read_head(shape.model, shape.name)
    anchor = torch.empty((), device="meta", requires_grad=True)
    total = sum(work.answers)
    terms = [torch.empty(n, dtype=torch.int64, device="meta") for n in work.answers]
    sources_N = torch.empty(total, dtype=torch.int64, device="meta")

    def answer_states() -> torch.Tensor:
        rows_BTD = (work.load.rows, work.load.tokens, width)
        hidden_BTD = Source.apply(anchor, rows_BTD, dtype)  # type: ignore[no-untyped-call]
        for norm in _final_norms(shape.model):
            hidden_BTD = norm(hidden_BTD)
        hidden_ND: torch.Tensor = hidden_BTD.flatten(0, 1).index_select(0, sources_N)
        return hidden_ND

    with torch.set_grad_enabled(with_grad), LiveBytes() as live:
        hidden_ND = reference_ND = answer_states()
        answers = live.current
        if work.loss == "kl":
            with torch.no_grad():
                reference_ND = answer_states()
        losses = []
        for index in terms:
            if work.loss == "kl":
                states = reference_ND[index]
                loss, _ = preservation_divergence(hidden_ND[index], states, head, total_tokens=1)
            else:
                states = index
                loss = guided_distortion(hidden_ND[index], index, head, total_tokens=1)
            losses.append(loss)
        del hidden_ND, reference_ND, states
        forward_peak, saved = live.peak, live.current
        if not with_grad:
            return TailBytes(answers, forward_peak, saved, 0)
        end = Sink.apply(torch.stack(losses).sum())  # type: ignore[no-untyped-call]
        live.reset_peak()
        end.backward()
        return TailBytes(answers, forward_peak, saved, live.peak)


def _final_norms(model: nn.Module) -> Sequence[nn.Module]:
    """The decoder's last normalisation, by the names that architectures give it."""
    named = model.get_decoder().named_children()  # type: ignore[operator]
    return [m for name, m in named if "norm" in name or name == "ln_f"][-1:]
