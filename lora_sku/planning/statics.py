"""Bytes that do not depend on the tokens: weights, gradients, optimizer states, workspaces."""

from collections.abc import Iterable
from typing import Literal

import torch

from lora_sku.planning.shapes import LinearShape, ModelShape
from lora_sku.recipe import Quantization

Optimizer = Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"]

# bitsandbytes: one absmax for 64 weights; double quantization holds these in 8 bits with one fp32
# scale for 256 of them, and a codebook, a mean and the 16 levels for each weight matrix.
BLOCK = 64
NESTED_BLOCK = 256
LEVELS_BYTES = 16 * 4
NESTED_STATE_BYTES = 256 * 4 + 4
# bitsandbytes keeps 32-bit states of tensors with fewer elements (min_8bit_size).
SMALLEST_8BIT_TENSOR = 4096
OPTIMIZER_BLOCK = 256


def linear_weight_bytes(
    weight: LinearShape, quantization: Quantization, dtype: torch.dtype, *, double: bool = True
) -> int:
    """One linear layer's weight as it is stored.

    4 bits: n / 2, and 4 n / 64 for the absmax, or with ``double`` n / 64 + 4 n / 16384: 0.515869
    bytes a weight. int8: n, and one fp32 scale for each output.
    """
    n = weight.weights
    if quantization == "none":
        return n * dtype.itemsize
    if quantization == "int8":
        return n + 4 * weight.out_features
    blocks = -(-n // BLOCK)
    if not double:
        return -(-n // 2) + 4 * blocks + LEVELS_BYTES
    nested = blocks + 4 * -(-blocks // NESTED_BLOCK) + NESTED_STATE_BYTES
    return -(-n // 2) + nested + LEVELS_BYTES


def base_bytes(
    shape: ModelShape, quantization: Quantization, dtype: torch.dtype, *, double: bool = True
) -> int:
    """All weights: linear layers quantized, the rest in the compute dtype."""
    linears = sum(linear_weight_bytes(w, quantization, dtype, double=double) for w in shape.linears)
    return linears + shape.rest_parameters * dtype.itemsize


def factor_sizes(adapted: Iterable[LinearShape], rank: int) -> list[int]:
    """Elements of each LoRA factor: A is (r, in), B is (out, r)."""
    return [rank * width for w in adapted for width in (w.in_features, w.out_features)]


def optimizer_bytes(sizes: Iterable[int], optimizer: Optimizer) -> int:
    """Both moments of Adam for tensors of these sizes.

    fp32: 8 bytes a parameter. 8 bits: 2, and two fp32 scales for 256 parameters; tensors below 4096
    elements keep fp32. Paging does not change the sum, only where it may lie.
    """
    if optimizer == "adamw_torch":
        return sum(8 * n for n in sizes)
    return sum(
        8 * n if n < SMALLEST_8BIT_TENSOR else 2 * (n + 4 * -(-n // OPTIMIZER_BLOCK)) for n in sizes
    )


def optimizer_step_bytes(trained_bytes: int, optimizer: Optimizer, device: str) -> int:
    """What an update makes for a moment.

    torch's AdamW on CUDA works on all tensors at once (foreach) and makes the square roots of the
    second moments: once the trained parameters. On CPU it goes tensor by tensor; 8-bit updates are
    fused.
    """
    return trained_bytes if optimizer == "adamw_torch" and device == "cuda" else 0


def workspace_bytes(shape: ModelShape, quantization: Quantization, dtype: torch.dtype) -> int:
    """The dequantized copy of the largest linear weight, with its absmax in fp32.

    4 bits: forward and backward both dequantize the weight, one at a time (MatMul4Bit); nested
    absmax is expanded before. int8: the backward does (MatMul8bitLt).
    """
    if quantization == "none":
        return 0
    largest = max(weight.weights for weight in shape.linears)
    absmax = 0 if quantization == "int8" else 4 * -(-largest // BLOCK)
    return largest * dtype.itemsize + absmax
