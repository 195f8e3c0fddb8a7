"""Stand-ins keep and make what the real kernels do; the comparison with real layers is
test_layers.py's, here is what tiny models on a CPU cannot run."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lora_sku.planning.live import LiveBytes
from lora_sku.planning.standins import FusedAttention, LinearKind, PlannedLinear, Sink, Source

T, I, O, R = 64, 32, 48, 4  # noqa: E741 - the shape suffixes


def kept_by(kind: LinearKind, rank: int = R) -> int:
    """Bytes a token that one projection keeps of its own."""
    layer = PlannedLinear(I, O, rank, kind)
    anchor = torch.empty((), device="meta", requires_grad=True)
    with LiveBytes() as live:
        x = Source.apply(anchor, (1, T, I), torch.bfloat16)
        y = layer(x)
        del x
        return (live.current - y.nbytes) // T


def test_what_a_projection_keeps() -> None:
    assert kept_by(LinearKind("nf4", "cuda"), rank=0) == 0
    assert kept_by(LinearKind("nf4", "cuda")) == 2 * I + 2 * R
    assert kept_by(LinearKind("nf4", "cuda", branch="peft")) == 4 * I + 4 * R
    factors_in_bf16 = LinearKind("nf4", "cuda", torch.bfloat16, branch="peft")
    assert kept_by(factors_in_bf16) == 2 * I + 2 * R
    assert kept_by(LinearKind("int8", "cuda"), rank=0) == 0
    assert kept_by(LinearKind("nf4", "cuda", keeps_inputs=True), rank=0) == 2 * I
    assert kept_by(LinearKind("nf4", "cuda", dropout=0.1)) == 3 * I + 2 * R


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_fused_attention_keeps_its_inputs_and_no_scores(device: str) -> None:
    shape = (2, 4, T, 16)
    q, k, v = (torch.empty(shape, device="meta", requires_grad=True) for _ in range(3))
    with FusedAttention(device, packed=False) as attention, LiveBytes() as live:
        out = scaled_dot_product_attention(q, k, v, is_causal=True)
        assert live.current == out.nbytes + 2 * 4 * T * 4  # a log-sum-exp a row
        Sink.apply(out).backward()
    assert attention.rows == 2
    assert q.grad is not None
    assert out.shape == shape


def test_packed_rows_on_a_cpu_keep_their_scores() -> None:
    q, k, v = (torch.empty((2, 4, T, 16), device="meta", requires_grad=True) for _ in range(3))
    kept = {}
    for packed in (False, True):
        with FusedAttention("cpu", packed=packed), LiveBytes() as live:
            out = scaled_dot_product_attention(q, k, v, is_causal=True)
            kept[packed] = live.current - out.nbytes
    assert kept[True] >= 2 * 4 * T * T * 4 > kept[False]
