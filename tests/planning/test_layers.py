"""A layer's planned bytes are those of the real layer while it computes."""

from pathlib import Path

import pytest
import torch
from planning_tools import Pair, ids_and_layout, pair, real_layer_bytes
from tiny import HIDDEN, VOCABULARY, llama_config, save_model
from transformers import OPTConfig, PretrainedConfig, Qwen2Config

from lora_sku.planning.layers import LayerSetup, Tokens, count_layers, heeds_layouts
from lora_sku.planning.live import LiveBytes
from lora_sku.planning.statics import workspace_bytes

ROWS = Tokens(3, 40)
PACKED = Tokens(1, 90, unfolds=(4, 30))
TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": llama_config(),
    "qwen2": Qwen2Config(
        **TOKENS,
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    ),
    "opt": OPTConfig(
        **TOKENS,
        hidden_size=HIDDEN,
        word_embed_proj_dim=HIDDEN,
        ffn_dim=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        dropout=0.0,
    ),
}


@pytest.mark.parametrize("load", [ROWS, PACKED], ids=["rows", "packed"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_a_planned_layer_is_the_real_one(
    tmp_path: Path, kind: str, quantization: str, dtype: torch.dtype, load: Tokens
) -> None:
    both = pair(save_model(tmp_path, CONFIGS[kind]), quantization, dtype)
    if load.unfolds and not heeds_layouts(both.shape):
        pytest.skip("this architecture is not packed")
    real = real_layer_bytes(both.real, 1, load)
    planned = count_layers(both.shape, both.setup, load)[1]
    assert planned.saved == pytest.approx(real.saved, rel=0.01)
    # The real layer's dequantized weights are the plan's workspace line.
    workspace = workspace_bytes(both.shape, quantization, dtype)  # type: ignore[arg-type]
    for told, seen in (
        (planned.forward_peak, real.forward_peak),
        (planned.backward_peak, real.backward_peak),
    ):
        assert told * 0.95 <= seen <= (told + 2 * workspace) * 1.05


def test_what_autograd_is_given_to_keep_is_what_the_plan_says(tmp_path: Path) -> None:
    # By autograd's own hooks, without the tracker that the plan is made with.
    both = pair(save_model(tmp_path, llama_config()))
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    own = {p.untyped_storage().data_ptr() for p in both.real.peft_model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = both.real.hidden_states(*ids_and_layout(ROWS))
    layers = sum(size for place, size in kept.items() if place not in own)
    planned = sum(layer.saved for layer in count_layers(both.shape, both.setup, ROWS))
    final_norm = ROWS.count * (4 * HIDDEN + 4)
    rotations = 2 * ROWS.tokens * (HIDDEN // 4) * 2
    assert hidden.requires_grad
    assert layers == pytest.approx(planned + final_norm + rotations, rel=0.02)


def test_layers_below_the_lowest_adapter_keep_nothing(tmp_path: Path) -> None:
    folder = save_model(tmp_path, llama_config(num_hidden_layers=3))
    both = pair(folder, layers_to_transform=(1,))
    below, adapted, above = count_layers(both.shape, both.setup, ROWS)
    assert (below.saved, below.backward_peak) == (0, 0)
    assert adapted.saved > 0
    assert 0 < above.saved < adapted.saved  # no adapter of its own, but a gradient goes through


def test_without_training_nothing_is_kept(tmp_path: Path) -> None:
    both = pair(save_model(tmp_path, llama_config()))
    setup = LayerSetup(both.setup.kind, both.setup.rank, both.setup.adapted, trains=False)
    ids, layout = ids_and_layout(ROWS)
    for layer in count_layers(both.shape, setup, ROWS):
        assert (layer.saved, layer.backward_peak) == (0, 0)
        assert layer.forward_peak < count_layers(both.shape, both.setup, ROWS)[0].forward_peak
    with torch.no_grad(), LiveBytes() as live:
        both.real.hidden_states(ids, layout)
    assert live.peak >= layer.forward_peak


def test_full_fine_tuning_keeps_every_products_input(tmp_path: Path) -> None:
    both: Pair = pair(save_model(tmp_path, llama_config()), "none")
    full = LayerSetup(both.setup.kind, 0, frozenset(), trains_base=True)
    frozen = LayerSetup(both.setup.kind, 0, frozenset(), trains=False)
    assert count_layers(both.shape, full, ROWS)[0].saved > 0
    assert count_layers(both.shape, frozen, ROWS)[0].saved == 0


def test_memory_grows_with_the_tokens_and_a_mask_with_their_square(tmp_path: Path) -> None:
    both = pair(save_model(tmp_path, llama_config()))
    once, twice = (count_layers(both.shape, both.setup, Tokens(n, 40))[1].saved for n in (2, 4))
    assert twice == 2 * once
