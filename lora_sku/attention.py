"""Attention over packed rows: each answer sees its own prompt and itself, and no mask is needed.

Everything in a decoder but attention works token by token, so a packed row, in which a prompt
stands once before all its answers, costs it only the tokens that are there. Attention unfolds that
row into one pair a row, runs the causal kernel that plain batches run, and folds the result back.
The prompt's keys and values are computed once and read by every answer.

B = 1 packed row of T tokens unfolds into R rows of W places; H heads of size d.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
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

    rows = unfolded(query), unfolded(key), unfolded(value)
    if query.device.type == "cpu":
        output_RWHd = causal_attention(*rows, settings.get("scaling")).transpose(1, 2).contiguous()
    else:
        output_RWHd, _ = sdpa_attention_forward(module, *rows, None, **settings)
    return output_RWHd.flatten(0, 1).index_select(0, packed_layout.fold)[None], None


def causal_attention(
    query_RHWd: Tensor, key_RKWd: Tensor, value_RKWd: Tensor, scaling: float | None
) -> Tensor:
    """Attention of whole rows to what stands before, for CPUs.

    PyTorch's fused kernel is slow there: on rows of this length its backward takes three to four
    times as long. Its plain one copies the K key heads for each of the H that share them, and looks
    for rows without any key, which causal rows never are.

    Args:
        query_RHWd: R rows of W places, H heads of size d.
        key_RKWd: K heads; each serves H / K queries' heads in their order.
        value_RKWd: As the keys.
        scaling: Of the scores; None is 1 / sqrt(d).

    Returns:
        (R, H, W, d).
    """
    rows, heads, width, size = query_RHWd.shape
    groups = rows * key_RKWd.shape[1]
    query = query_RHWd.reshape(groups, -1, size)
    key, value = (states.reshape(groups, width, size) for states in (key_RKWd, value_RKWd))
    ahead = query.new_full((width, width), -math.inf).triu(1).repeat(query.shape[1] // width, 1)
    scale = size**-0.5 if scaling is None else scaling
    weights = torch.baddbmm(ahead, query, key.transpose(1, 2), alpha=scale).softmax(-1)
    return torch.bmm(weights, value).view(rows, heads, width, size)
