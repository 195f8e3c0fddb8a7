"""Planned peaks of SKU's stage 1 done in other ways, beside ours, for models of any size.

Every method gets the same prompts, lengths and constants; see `lora_sku.planning`.

Shape suffixes: B rows, T tokens of a row, D hidden size, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name

from lora_sku.planning.layers import LayerSetup, Tokens, count_layers
from lora_sku.planning.live import LiveBytes
from lora_sku.planning.passes import (
    Moment,
    Pass,
    TailBytes,
    hidden_bytes,
    layer_kept,
    training_moments,
)
from lora_sku.planning.plan import (
    Line,
    Setup,
    StagePlan,
    adapted_layers,
    at_peak,
    plan_training,
    workspace_of,
)
from lora_sku.planning.recipe_passes import Answers, Lengths, PassShape
from lora_sku.planning.shapes import ModelShape
from lora_sku.planning.standins import LinearKind, Sink, Source
from lora_sku.planning.statics import base_bytes, optimizer_bytes


@dataclass(frozen=True)
class Work:
    """One micro-batch.

    Attributes:
        prompts: Forget prompts, and as many normal prompts.
        responses: k random answers to each.
        lengths: Tokens of each prompt and answer.
    """

    prompts: int
    responses: int
    lengths: Lengths

    def packed(self) -> list[Pass]:
        """Our two passes."""
        shapes = (
            PassShape("forget", self.prompts, (Answers(1), Answers(self.responses)), "nll"),
            PassShape("retain", self.prompts, (Answers(1),), "kl"),
        )
        return [shape.of(self.lengths, packs=True) for shape in shapes]

    def separate_rows(self) -> list[tuple[Tokens, bool]]:
        """A padded row for each pair, and whether its loss is the KL."""
        width = self.lengths.prompt + self.lengths.answer
        rows = (self.prompts, self.prompts * self.responses, self.prompts)
        return [(Tokens(n, width), kl) for n, kl in zip(rows, (False, False, True), strict=True)]


def ours(shape: ModelShape, setup: Setup, work: Work) -> StagePlan:
    """LoRA on a quantized base, packed rows, chunked losses, each back-propagated on its own."""
    return plan_training(shape, setup, work.packed())


def textbook(shape: ModelShape, setup: Setup, work: Work) -> StagePlan:
    """The same adapter the usual way.

    PEFT's own layers, a padded row for each pair, logits of every position in fp32, and one
    backward for the sum of the three losses, so that all three graphs are alive together.
    """
    setup = replace(setup, branch="peft")
    layers, sizes = adapted_layers(shape, setup)
    trained = sum(sizes) * setup.adapter_dtype.itemsize
    held = [
        Line("base weights", base_bytes(shape, setup.quantization, setup.dtype)),
        Line("adapter weights", trained),
        Line("gradients", trained),
        Line("optimizer state", optimizer_bytes(sizes, setup.optimizer)),
    ]
    moments = _joint_moments(shape, layers, work, checkpointing=setup.checkpointing)
    return at_peak("textbook", held, moments, workspace_of(shape, setup), setup.device)


def published(shape: ModelShape, setup: Setup, work: Work) -> tuple[StagePlan, StagePlan]:
    """Full fine-tuning as released: training, then negation.

    ``setup.dtype`` and the shape's dtype are the one the model is loaded in; the released code
    takes transformers' default.
    A second copy of the base is the reference; AdamW's moments have the weights' dtype; five copies
    of the weights are alive at the negation.
    """
    weights = shape.parameters * setup.dtype.itemsize
    held = [
        Line("base weights", weights),
        Line("reference weights", weights),
        Line("gradients", weights),
        Line("optimizer state", 2 * weights),
    ]
    moments = _joint_moments(shape, _full(setup), work, checkpointing=False)
    moments.append(Moment("optimizer step", layer=weights))  # foreach, see optimizer_step_bytes
    negation = at_peak(
        "negate", [Line("five copies", 5 * weights)], [Moment("negation")], 0, setup.device
    )
    return at_peak("published", held, moments, 0, setup.device), negation


def full(shape: ModelShape, setup: Setup, work: Work) -> StagePlan:
    """Full fine-tuning as frugal as it gets.

    A row for each pair, losses in chunks, each back-propagated on its own, checkpointing, weights
    and gradients in the compute dtype, 8-bit Adam; the reference's hidden states are made before
    the first update, and its output projection is copied. On a CPU, where 8-bit Adam saves nothing,
    AdamW's moments have the weights' dtype.
    """
    weights = shape.parameters * setup.dtype.itemsize
    eight_bit = optimizer_bytes([shape.parameters], "adamw_8bit")
    states = eight_bit if setup.device == "cuda" else 2 * weights
    head_VD = shape.model.get_output_embeddings().weight
    held = [
        Line("base weights", weights),
        Line("reference head", head_VD.numel() * setup.dtype.itemsize),
        Line("gradients", weights),
        Line("optimizer state", states),
    ]
    moments = [
        moment
        for load, kl in work.separate_rows()
        for moment in training_moments(
            shape,
            _full(setup),
            Pass("row", load, (load.rows * work.lengths.answer,), "kl" if kl else "nll"),
            checkpointing=True,
        )
    ]
    return at_peak("full", held, moments, 0, setup.device)


def _full(setup: Setup) -> LayerSetup:
    return LayerSetup(LinearKind("none", setup.device), 0, frozenset(), trains_base=True)


def _joint_moments(
    shape: ModelShape, setup: LayerSetup, work: Work, *, checkpointing: bool
) -> list[Moment]:
    """Three forward passes whose graphs add up, then one backward through all of them.

    Autograd takes the graph that was built last first, and frees it on the way.
    """
    moments, kept, logits, graphs = [], 0, 0, []
    for load, kl in work.separate_rows():
        layers = count_layers(shape, setup, load)
        hidden = hidden_bytes(shape, load)
        layers_keep = sum(layer_kept(each, hidden, checkpointing=checkpointing) for each in layers)
        kept += layers_keep
        tail = count_full_logits(shape, load, kl=kl)
        moments.append(Moment("loss", kept, loss=logits + tail.forward_peak))
        logits += tail.saved
        graphs.append((layers_keep, layers[-1], tail))
    for layers_keep, top, tail in reversed(graphs):
        logits -= tail.saved
        moments.append(Moment("loss, backward", kept, loss=logits + tail.backward_peak))
        again = max(top.forward_peak, top.backward_peak)
        at_work = again if checkpointing else top.backward_peak - top.saved
        moments.append(Moment("backward", kept, at_work, logits))
        kept -= layers_keep
    return moments


def count_full_logits(shape: ModelShape, load: Tokens, *, kl: bool) -> TailBytes:
    """Cross-entropy, or KL to a second pass's logits, over all positions in fp32."""
    weight_VD = shape.model.get_output_embeddings().weight
    anchor = torch.empty((), device="meta", requires_grad=True)
    targets = torch.empty(load.count, dtype=torch.int64, device="meta")
    size = (load.count, shape.hidden_size)
    with LiveBytes() as live:
        hidden = Source.apply(anchor, size, shape.model.dtype)  # type: ignore[no-untyped-call]
        logits = F.linear(hidden, weight_VD)
        if kl:
            reference = hidden.new_empty(logits.shape).float()
            loss = F.kl_div(
                F.log_softmax(logits.float(), -1),
                F.log_softmax(reference, -1),
                log_target=True,
                reduction="batchmean",
            )
            del reference
        else:
            loss = F.cross_entropy(logits.float(), targets)
        forward_peak, saved = live.peak, live.current
        del hidden, logits
        end = Sink.apply(loss)  # type: ignore[no-untyped-call]
        live.reset_peak()
        end.backward()
        return TailBytes(0, forward_peak, saved, live.peak)


def compare(shape: ModelShape, setup: Setup, work: Work) -> Sequence[StagePlan]:
    """All methods on the same work, ours first."""
    return (
        ours(shape, setup, work),
        textbook(shape, setup, work),
        full(shape, setup, work),
        *published(shape, setup, work),
    )
