"""What a plan is, and how it is put together from counted and computed bytes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from lora_sku.memory import GIB
from lora_sku.planning.layers import LayerSetup, Tokens, count_layers
from lora_sku.planning.passes import (
    Moment,
    Pass,
    mask_bytes,
    scoring_moments,
    training_moments,
    without_gradient,
)
from lora_sku.planning.shapes import ALL_LINEAR, ModelShape
from lora_sku.planning.standins import LinearKind
from lora_sku.planning.statics import (
    Optimizer,
    base_bytes,
    factor_sizes,
    optimizer_bytes,
    optimizer_step_bytes,
    workspace_bytes,
)
from lora_sku.recipe import Quantization

MIB = 2**20

# A CUDA context with torch's, cuBLAS's and bitsandbytes' kernels loaded on use: 0.3 to 0.5 GiB in
# nvidia-smi, by card and driver. It is outside of torch's allocator.
CUDA_CONTEXT_BYTES = 512 * MIB
# torch.backends.cuda documents CUBLAS_WORKSPACE_CONFIG: 32 MiB on Hopper, 8 MiB on other cards.
CUBLAS_WORKSPACE_BYTES = 32 * MIB
# On a CPU, what training itself loads: oneDNN keeps up to 1,024 compiled products, one for each new
# shape, at about a quarter of a MiB each (the demo's resident memory grows by 26 MiB a step at
# first while its live tensors do not).
CPU_RUNTIME_BYTES = 256 * MIB
# What an allocator holds beyond the live tensors, as a share of what comes and goes (weights lie
# tight). CUDA: torch cuts blocks of 2 to 20 MiB and more and keeps freed ones, so it reserves more
# wherever sizes vary. CPU: glibc's malloc keeps freed blocks of up to 32 MiB, and `heap` hands them
# back only as they grow.
ALLOCATOR_SLACK = {"cuda": 0.10, "cpu": 0.50}


@dataclass(frozen=True, slots=True)
class Setup:
    """How a model is held and trained.

    Attributes:
        device: "cuda" or "cpu".
        quantization: Of the linear layers.
        dtype: Of the matrix products and of what is not quantized.
        rank: r.
        targets: Which linear layers carry an adapter.
        layers: Indices of the decoder layers that do; None is all.
        checkpointing: Activations are computed again for backward.
        optimizer: Decides the bytes of its states.
        adapter_dtype: Of the LoRA factors and their gradients.
        double: Double quantization of the 4-bit absmax.
        dropout: lora_dropout.
        keeps_inputs: As bitsandbytes before 0.43.2, see `LinearKind`.
        branch: How the adapters are computed; "peft" to compare with PEFT's own layers.
    """

    device: str
    quantization: Quantization
    dtype: torch.dtype
    rank: int
    targets: str | tuple[str, ...] = ALL_LINEAR
    layers: tuple[int, ...] | None = None
    checkpointing: bool = True
    optimizer: Optimizer = "paged_adamw_8bit"
    adapter_dtype: torch.dtype = torch.float32
    double: bool = True
    branch: Literal["lean", "peft"] = "lean"
    dropout: float = 0.0
    keeps_inputs: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """One part of a peak.

    Attributes:
        name: What it is.
        bytes: How much.
    """

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage's peak.

    The lines: base weights, adapter weights, gradients, optimizer state;
    activations kept by the layers not at work, the layer at work, logits and loss; workspace for
    dequantized weights; framework, which is no tensor.

    Attributes:
        stage: Its name.
        moment: Where in the stage the peak is.
        lines: The parts; they add up to the peak.
    """

    stage: str
    moment: str
    lines: tuple[Line, ...]

    @property
    def total(self) -> int:
        """Bytes that must be free: everything."""
        return sum(line.bytes for line in self.lines)

    @property
    def tensors(self) -> int:
        """Bytes of live tensors: what torch.cuda.max_memory_allocated would say."""
        return sum(line.bytes for line in self.lines if line.name != "framework")

    def bytes_of(self, name: str) -> int:
        """One line's bytes; 0 for a part that the stage does not have."""
        return sum(line.bytes for line in self.lines if line.name == name)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, in bytes."""
        return {
            "stage": self.stage,
            "moment": self.moment,
            "lines": {line.name: line.bytes for line in self.lines},
            "tensors": self.tensors,
            "total": self.total,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """Predicted peaks of a run.

    Attributes:
        model: As the recipe writes it.
        device: "cuda" or "cpu". On CPU the figures come on top of an empty process.
        micro_batch: Forget prompts in the model at once.
        tokens: Tokens in the model at once in the largest pass of training.
        upper_bound: Every prompt and answer has the longest length that the recipe allows.
        stages: Stage 1 and the evaluation, and what the recipe asks for before and between them.
    """

    model: str
    device: str
    micro_batch: int
    tokens: int
    upper_bound: bool
    stages: tuple[StagePlan, ...] = field(default=())

    @property
    def peak(self) -> StagePlan:
        """The stage that needs most."""
        return max(self.stages, key=lambda stage: stage.total)

    @property
    def total(self) -> int:
        """Bytes that the run needs at its peak."""
        return self.peak.total

    def stage(self, name: str) -> StagePlan:
        """One stage's peak."""
        return next(stage for stage in self.stages if stage.stage == name)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: stable keys, bytes."""
        return {
            "model": self.model,
            "device": self.device,
            "micro_batch": self.micro_batch,
            "tokens": self.tokens,
            "upper_bound": self.upper_bound,
            "total": self.total,
            "total_gib": round(self.total / GIB, 3),
            "stages": [stage.as_dict() for stage in self.stages],
        }


def plan_training(shape: ModelShape, setup: Setup, passes: Iterable[Pass]) -> StagePlan:
    """Stage 1: each pass is back-propagated on its own, so the peak is the largest one's."""
    layer_setup, sizes = adapted_layers(shape, setup)
    moments = [
        moment
        for work in passes
        for moment in training_moments(shape, layer_setup, work, checkpointing=setup.checkpointing)
    ]
    trained = sum(sizes) * setup.adapter_dtype.itemsize
    step = optimizer_step_bytes(trained, setup.optimizer, setup.device)
    moments.append(Moment("optimizer step", layer=step))
    held = [
        *weights_held(shape, setup, sizes),
        Line("gradients", trained),
        Line("optimizer state", optimizer_bytes(sizes, setup.optimizer)),
    ]
    return at_peak("acquire", held, moments, workspace_of(shape, setup), setup.device)


@dataclass(frozen=True, slots=True)
class Answering:
    """Prompts that are gone on with.

    Attributes:
        prompts: Padded on the left.
        new_tokens: The most that each gets.
    """

    prompts: Tokens
    new_tokens: int


def plan_scoring(
    stage: str, shape: ModelShape, setup: Setup, scoring: Pass, answering: Answering
) -> StagePlan:
    """Scoring pairs without gradient, and completions with a key and value cache.

    In a sweep theta_o's states are in the machine's memory. They are small (hidden size x 2 bytes
    an answer token) and not counted: how many there are, the data alone know.
    """
    layer_setup, sizes = adapted_layers(shape, setup)
    prompts = answering.prompts
    moments = list(scoring_moments(shape, layer_setup, scoring))
    per_token = len(shape.layers) * shape.kv_features * setup.dtype.itemsize
    with torch.no_grad():
        prefill = count_layers(shape, without_gradient(layer_setup), prompts)
    first = prompts.count * per_token + mask_bytes(shape, prompts)
    moments.append(Moment("reading prompts", first, max(x.forward_peak for x in prefill)))
    last = prompts.rows * (prompts.tokens + answering.new_tokens) * per_token
    # A growing cache is copied layer by layer.
    moments.append(Moment("last new token", last, last // len(shape.layers)))
    held = weights_held(shape, setup, sizes)
    return at_peak(stage, held, moments, workspace_of(shape, setup), setup.device)


def adapted_layers(shape: ModelShape, setup: Setup) -> tuple[LayerSetup, list[int]]:
    """How the layers run, and the elements of each LoRA factor."""
    adapted = shape.adapted(setup.targets, setup.layers)
    kind = LinearKind(
        quantization=setup.quantization,
        device=setup.device,
        adapter_dtype=setup.adapter_dtype,
        branch=setup.branch,
        dropout=setup.dropout,
        keeps_inputs=setup.keeps_inputs,
    )
    paths = frozenset(linear.path for linear in adapted)
    return LayerSetup(kind, setup.rank, paths), factor_sizes(adapted, setup.rank)


def workspace_of(shape: ModelShape, setup: Setup) -> int:
    """The largest dequantized weight."""
    return workspace_bytes(shape, setup.quantization, setup.dtype)


def at_peak(
    stage: str, held: Sequence[Line], moments: Sequence[Moment], workspace: int, device: str
) -> StagePlan:
    """The stage at its largest moment; a weight is dequantized only while a layer is at work."""

    def dequantized(moment: Moment) -> int:
        return workspace if moment.layer else 0

    peak = max(moments, key=lambda moment: moment.total + dequantized(moment))
    moving = [
        Line("activations", peak.activations),
        Line("layer at work", peak.layer),
        Line("logits and loss", peak.loss),
        Line("workspace", dequantized(peak)),
    ]
    slack = int(ALLOCATOR_SLACK[device] * sum(line.bytes for line in moving))
    on_cuda = CUDA_CONTEXT_BYTES + CUBLAS_WORKSPACE_BYTES
    framework = Line("framework", slack + (on_cuda if device == "cuda" else CPU_RUNTIME_BYTES))
    return StagePlan(stage, peak.name, (*held, *moving, framework))


def weights_held(shape: ModelShape, setup: Setup, sizes: Sequence[int]) -> list[Line]:
    """The lines of the base and of one adapter, whose factors have ``sizes`` elements."""
    base = base_bytes(shape, setup.quantization, setup.dtype, double=setup.double)
    return [
        Line("base weights", base),
        Line("adapter weights", sum(sizes) * setup.adapter_dtype.itemsize),
    ]
