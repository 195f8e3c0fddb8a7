"""int8 layers that keep no input: bitsandbytes' own values and gradients, with less memory."""

from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from tiny import load
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lora_sku.int8_linear import keep_no_int8_inputs
from lora_sku.planning.live import LiveBytes

T, I, O = 32, 128, 192  # noqa: E741 - the shape suffixes


def int8_layer(*, bias: bool = False) -> nn.Module:
    torch.manual_seed(0)
    plain = nn.Linear(I, O, bias=bias)
    layer = bnb.nn.Linear8bitLt(I, O, bias=bias, has_fp16_weights=False, threshold=6.0)
    layer.load_state_dict(plain.state_dict())
    return layer.to("cpu").requires_grad_(False)


def value_and_gradient(layer: nn.Module, dtype: torch.dtype, scale: float) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    x = (torch.randn(2, T, I) * scale).to(dtype).requires_grad_()
    y = layer(x)
    y.backward(torch.linspace(-1, 1, y.numel()).view(y.shape).to(dtype))
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 4.0])  # with 4 some inputs are outliers
def test_it_computes_what_bitsandbytes_computes(
    training: bool, dtype: torch.dtype, scale: float
) -> None:
    theirs, ours = int8_layer(bias=True).train(training), int8_layer(bias=True).train(training)
    keep_no_int8_inputs(ours)
    for got, expected in zip(
        value_and_gradient(ours, dtype, scale),
        value_and_gradient(theirs, dtype, scale),
        strict=True,
    ):
        assert torch.equal(got, expected)


def kept_by_a_checkpointed(layer: nn.Module) -> int:
    """Bytes alive behind the output of a layer that is to be computed again."""
    anchor = torch.zeros(T, I, requires_grad=True)
    with LiveBytes() as live:
        y = checkpoint(lambda x: layer(x * 2), anchor, use_reentrant=False)
        assert isinstance(y, Tensor)
        return live.current - y.nbytes


def test_checkpointing_drops_its_input_too() -> None:
    layer = int8_layer().train()
    assert kept_by_a_checkpointed(layer) >= T * I * 4  # why this module is here
    keep_no_int8_inputs(layer)
    assert kept_by_a_checkpointed(layer) == 0


def test_a_loaded_base_has_it(tiny_llama: Path) -> None:
    base = load(tiny_llama, "int8")
    layers = [m for m in base.model.modules() if isinstance(m, bnb.nn.Linear8bitLt)]
    assert layers
    assert all("forward" in vars(layer) for layer in layers)
