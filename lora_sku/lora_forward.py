"""The forward pass of an adapted layer: PEFT's mathematics, with less memory and fewer passes.

PEFT casts a layer's input to the adapter's fp32, once for every projection that reads it, keeps the
copies for the backward pass, and walks the output four times (clone, scale, cast, add). Here the
low-rank branch computes in the input's own dtype, as under autocast, keeps the input itself, which
all projections share, and adds to the base's output in one pass. The adapter and its gradients stay
fp32.

Source of the branch: Hu et al. 2021, 'LoRA: Low-Rank Adaptation of Large Language Models', section
4.1: W x + scaling * B A x.

Shape suffixes: T tokens, I in features, O out features, R rank.
"""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:  # planning counts this branch's bytes and must not load PEFT for it
    from peft.tuners.lora import LoraLayer


def use_lean_forward(layer: "LoraLayer") -> None:
    """Replace a PEFT layer's forward; what PEFT stores, saves and merges stays as it is."""
    layer.forward = partial(_forward, layer)


def _forward(layer: Any, x: Tensor) -> Tensor:
    result: Tensor = layer.base_layer(x)
    if layer.disable_adapters:
        return result
    for name in layer.active_adapters:
        if name in layer.lora_A:
            a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
            dropped = layer.lora_dropout[name](x)
            result = add_low_rank(result, dropped, a, b, float(layer.scaling[name]))
    return result


def add_low_rank(base: Tensor, x: Tensor, a_RI: Tensor, b_OR: Tensor, scaling: float) -> Tensor:
    """``base + scaling * x A^T B^T`` in x's dtype.

    Args:
        base: The base layer's output (..., O).
        x: Its input (..., I).
        a_RI: fp32, receives an fp32 gradient, as does ``b_OR``.
        b_OR: The other factor.
        scaling: alpha/r, or alpha/sqrt(r) for rsLoRA.
    """
    result: Tensor = _LowRank.apply(base, x, a_RI, b_OR, scaling)  # type: ignore[no-untyped-call]
    return result


class _LowRank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, base: Tensor, x: Tensor, a_RI: Tensor, b_OR: Tensor, scaling: float
    ) -> Tensor:
        x_TI = x.reshape(-1, x.shape[-1])
        low_TR = x_TI @ a_RI.to(x.dtype).T
        ctx.save_for_backward(x, low_TR, a_RI, b_OR)
        ctx.x_shape, ctx.scaling = x.shape, scaling
        base_TO = base.reshape(-1, base.shape[-1])
        out_TO = torch.addmm(base_TO, low_TR, b_OR.to(x.dtype).T, alpha=scaling)
        return out_TO.view(base.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, low_TR, a_RI, b_OR = ctx.saved_tensors
        needs_x, needs_a, needs_b = ctx.needs_input_grad[1:4]
        grad_TO = grads[0].reshape(-1, grads[0].shape[-1])
        grad_low_TR = grad_TO @ (b_OR * ctx.scaling).to(grad_TO.dtype)
        grad_x = grad_a_RI = grad_b_OR = None
        if needs_x:
            grad_x = (grad_low_TR @ a_RI.to(grad_low_TR.dtype)).view(ctx.x_shape)
        if needs_a:
            grad_a_RI = (grad_low_TR.T @ x.reshape(-1, x.shape[-1])).to(a_RI.dtype)
        if needs_b:
            grad_b_OR = (grad_TO.T @ low_TR).to(b_OR.dtype) * ctx.scaling
        return grads[0], grad_x, grad_a_RI, grad_b_OR, None
