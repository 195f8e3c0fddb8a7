"""bitsandbytes' int8 layers without the inputs that their backward pass keeps and never reads.

Both of its autograd functions hold their input as an attribute instead of a saved tensor, for the
gradient of a weight that is frozen here. Checkpointing cannot drop an attribute, so every layer's
inputs would stay in memory from the forward to the backward pass, and the activations of an int8
base would grow as if there were no checkpointing.

Shape suffixes: O out features, I in features.
"""

from functools import partial
from typing import Any

import bitsandbytes as bnb
import torch
from torch import Tensor, nn


def keep_no_int8_inputs(model: nn.Module) -> None:
    """Give every int8 layer of a frozen model a forward that saves nothing; the values stay."""
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear8bitLt):
            module.forward = partial(_forward, module)


def _forward(layer: bnb.nn.Linear8bitLt, x: Tensor) -> Tensor:
    result: Tensor = _FrozenProduct.apply(x, layer)  # type: ignore[no-untyped-call]
    return result


class _FrozenProduct(torch.autograd.Function):
    """x W^T + bias by bitsandbytes' own kernels; the gradient goes to x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: bnb.nn.Linear8bitLt) -> Tensor:
        ctx.layer = layer
        # No gradient is recorded in here, so bitsandbytes' own graph is gone on return.
        result: Tensor = bnb.nn.Linear8bitLt.forward(layer, x)
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        state, grad = ctx.layer.state, grads[0]
        weight_OI = state.CB.to(grad.dtype, copy=True)
        weight_OI.mul_(state.SCB.unsqueeze(1) * (1 / 127))
        return grad @ weight_OI, None
