"""Attention over packed rows: each answer sees its own prompt and itself, and no mask is needed.

Everything in a decoder but attention works token by token, so a packed row, in which a prompt
stands once before all its answers, costs it only the tokens that are there. Attention unfolds that
row into one pair a row, runs the causal kernel that plain batches run, and folds the result back.
The prompt's keys and values are computed once and read by every answer.

B = 1 packed row of T tokens unfolds into R rows of W places; H heads of size d.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from lora_sku.data import Layout

NAME = "lora_sku_packed"


def use_packed_attention(model: PreTrainedModel) -> bool:
    """Let the model's attention understand packed rows; plain batches compute as before.

    Returns:
        False, with the model left as it was, if its attention is not PyTorch's plain one (some
        architectures cap the scores, which that kernel cannot).
    """
    if model.config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return bool(model.config._attn_implementation == NAME)


def run_decoder(decoder: nn.Module, input_ids_BT: Tensor, layout: Layout | None = None) -> Tensor:
    """Final hidden states (B, T, D) of right-padded rows, or with a layout of one packed row."""
    place: dict[str, Any] = {"attention_mask": None}
    if layout is not None:
        place = {
            # A ready-made 4-D mask is passed on as it is; `packed_attention` does not read it.
            "attention_mask": input_ids_BT.new_empty(1, 1, 1, 1),
            "position_ids": layout.position_ids,
            "packed_layout": layout,
        }
    output = decoder(input_ids=input_ids_BT, use_cache=False, **place)
    hidden_BTD: Tensor = output.last_hidden_state
    return hidden_BTD


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed_layout: Layout | None = None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: (1, H, T, d) each -> (1, T, H, d), positions encoded."""
    if packed_layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    unfold = packed_layout.unfold

    def unfolded(states_1HTd: Tensor) -> Tensor:
        states_HNd = states_1HTd[0].index_select(1, unfold.flatten())
        return states_HNd.view(len(states_HNd), *unfold.shape, -1).transpose(0, 1)

    with _fastest_kernel(query.device):
        output_RWHd, _ = sdpa_attention_forward(
            module, unfolded(query), unfolded(key), unfolded(value), None, **settings
        )
    return output_RWHd.flatten(0, 1).index_select(0, packed_layout.fold)[None], None


def _fastest_kernel(device: torch.device) -> AbstractContextManager[None]:
    # On CPUs the fused kernel's backward takes three to four times as long as the plain one's on
    # rows of this length (benchmarks/speed.py tells the share of attention in a step).
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
