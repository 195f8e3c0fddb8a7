"""Stand-ins for the layers whose kernels do not run on the meta device.

Each makes the tensors that the real one makes and saves for backward what the real one saves; the
arithmetic is left out. A frozen product keeps no input, because its weight needs no gradient.

Shape suffixes: T tokens, I and O a linear layer's in and out features, R rank.
"""
# ruff: noqa: ARG004, D102 - the methods and their signatures are autograd's

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lora_sku.attention import causal_attention
from lora_sku.lora_forward import add_low_rank
from lora_sku.recipe import Quantization


@dataclass(frozen=True, slots=True)
class LinearKind:
    """What decides the tensors that a linear layer makes.

    Attributes:
        quantization: How the base weight is stored.
        device: "cuda" or "cpu"; int8 has another kernel on each.
        adapter_dtype: Dtype of the LoRA factors; PEFT's are fp32 on a bf16 base.
        dropout: Share of a branch's input that is dropped; above 0 each branch has its own copy.
        keeps_inputs: 4-bit products keep their input too, as bitsandbytes did before 0.43.2.
        branch: How B A x is formed: "lean" is the product's `lora_forward`, "peft" is PEFT's own.
    """

    quantization: Quantization
    device: str
    adapter_dtype: torch.dtype = torch.float32
    branch: Literal["lean", "peft"] = "lean"
    dropout: float = 0.0
    keeps_inputs: bool = False


class _FrozenProduct(torch.autograd.Function):
    """x W^T through a frozen weight.

    4-bit (bitsandbytes MatMul4Bit) saves nothing beside the weight, nor does int8 as `int8_linear`
    runs it; on CUDA its forward makes x in fp16 and int8 and the product in int32. The dequantized
    weight is the plan's `workspace` line, not made here.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, out_features: int, kind: LinearKind) -> Tensor:
        ctx.in_features = x.shape[-1]
        ctx.kept = x if kind.keeps_inputs else None
        if kind.quantization == "int8" and kind.device == "cuda":
            half = x.new_empty(x.shape, dtype=torch.float16)
            rows = x.new_empty(x.shape, dtype=torch.int8)
            del half
            product = x.new_empty((*x.shape[:-1], out_features), dtype=torch.int32)
            del rows
            return product.to(x.dtype)
        return x.new_empty((*x.shape[:-1], out_features))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0].new_empty((*grads[0].shape[:-1], ctx.in_features)), None, None


class PlannedLinear(nn.Module):
    """A linear layer as bitsandbytes and an adapter run it, or a frozen one without an adapter.

    The lean branch is the product's own code: it keeps x in its dtype, shared by all projections
    that read it, and 2 R bytes a token. PEFT's (peft/tuners/lora/bnb.py) clones the product, casts
    x to fp32 for each projection anew, scales B A x, casts back and adds: 4 I + 4 R bytes a token
    and projection with fp32 factors on a bf16 base. On an unquantized base (lora/layer.py) it forms
    the sum in fp32 first.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, kind: LinearKind) -> None:
        super().__init__()
        self._out_features = out_features
        self._kind = kind
        self._adapted = rank > 0
        if self._adapted:
            self.a_RI = _factor((rank, in_features), kind)
            self.b_OR = _factor((out_features, rank), kind)

    def forward(self, x: Tensor) -> Tensor:
        """The product (..., O)."""
        result: Tensor = _FrozenProduct.apply(x, self._out_features, self._kind)  # type: ignore[no-untyped-call]
        if not self._adapted:
            return result
        dtype = result.dtype
        if self._kind.branch == "lean":
            x = self._dropped(x)
            return add_low_rank(result, x, self.a_RI, self.b_OR, 0.5)
        if self._kind.quantization in ("nf4", "fp4"):
            result = result.clone()
        x = self._dropped(x.to(self._kind.adapter_dtype))
        delta = nn.functional.linear(nn.functional.linear(x, self.a_RI), self.b_OR) * 0.5
        if self._kind.quantization != "none":
            delta = delta.to(dtype)
        return (result + delta).to(dtype)

    def _dropped(self, x: Tensor) -> Tensor:
        if self._kind.dropout == 0 or not self.training:
            return x
        if self._kind.device == "cuda":  # its kernel keeps a mask of one byte an element
            return torch.native_dropout(x, self._kind.dropout, True)[0]
        return nn.functional.dropout(x, self._kind.dropout)


def _factor(shape: tuple[int, int], kind: LinearKind) -> nn.Parameter:
    factor = nn.Parameter(torch.empty(shape, dtype=kind.adapter_dtype, device="meta"))
    factor.grad = torch.empty_like(factor)  # a later micro-batch adds to it
    return factor


class _FusedAttention(torch.autograd.Function):
    """softmax(q k^T) v by a fused kernel: saves q, k, v, the output and a log-sum-exp a row."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, on_cuda: bool
    ) -> Tensor:
        rows, heads, tokens, _ = query.shape
        # The kernels write (rows, tokens, heads, width) and return a view of it.
        out = query.new_empty((rows, tokens, heads, value.shape[-1])).transpose(1, 2)
        log_sums = query.new_empty((rows, heads, tokens), dtype=torch.float32)
        saved = (query, key, value, out, log_sums)
        ctx.save_for_backward(*saved, *(() if mask is None else (mask,)))
        ctx.on_cuda = on_cuda
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value = ctx.saved_tensors[:3]
        # The CUDA kernels sum the query's gradient in fp32.
        total = query.new_empty(query.shape, dtype=torch.float32) if ctx.on_cuda else None
        result = (query.new_empty(query.shape), key.new_empty(key.shape))
        del total
        return *result, value.new_empty(value.shape), None, None


class FusedAttention(TorchFunctionMode):
    """Inside, scaled_dot_product_attention runs a fused kernel's stand-in.

    Packed rows on a CPU run `causal_attention` instead, as `packed_attention` does there: its
    weights are kept.

    Attributes:
        rows: Rows of the last call; 0 before any.
    """

    def __init__(self, device: str, *, packed: bool) -> None:
        super().__init__()
        self.rows = 0
        self._plain = packed and device == "cpu"
        self._on_cuda = device == "cuda"

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = args[:3]
        self.rows = len(query)
        mask = kwargs.get("attn_mask")
        if self._plain:
            return causal_attention(query, key, value, kwargs.get("scale"))
        return _FusedAttention.apply(query, key, value, mask, self._on_cuda)  # type: ignore[no-untyped-call]


class Source(torch.autograd.Function):
    """Makes a layer's input as the layer below would: alive only while somebody needs it."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return anchor.new_empty(shape, dtype=dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, None, None


class Sink(torch.autograd.Function):
    """Takes a layer's output and gives back a gradient as the layer above would."""

    @staticmethod
    def forward(ctx: Any, output: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = output.shape, output.dtype
        return output.new_empty(())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0].new_empty(ctx.shape, dtype=ctx.dtype)
