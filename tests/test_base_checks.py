"""Cures and refusals: what would go wrong in silence."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from architectures import ARCHITECTURES, GPT2_LIKE, LLAMA_LIKE, OPT_LIKE
from tiny import (
    HIDDEN,
    llama_config,
    load,
    logits_of,
    make_batch,
    save_model,
)
from torch import nn
from transformers import (
    GPT2Config,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PretrainedConfig,
)

from lora_sku import base_checks
from lora_sku.base_checks import (
    Packing,
    forbid_cpu_repacking,
    output_head,
    prove_packing,
    refuse_unsound_base,
    without_dropout,
)
from lora_sku.data import Batch, pack
from lora_sku.errors import ModelError
from lora_sku.losses import token_nll

# The output projection


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_token_nll_is_that_of_the_models_own_logits(kind: str, tmp_path: Path) -> None:
    base = load(save_model(tmp_path, ARCHITECTURES[kind]))
    batch = make_batch(base)
    logits_BTV = logits_of(base.model, batch.input_ids).float()
    expected_N = nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1)[batch.sources], batch.targets, reduction="none"
    )
    with torch.no_grad():
        hidden_BTD = base.model.get_decoder()(input_ids=batch.input_ids).last_hidden_state
    nll_N = token_nll(hidden_BTD.flatten(0, 1)[batch.sources], batch.targets, base.head)
    torch.testing.assert_close(nll_N, expected_N, rtol=1e-4, atol=1e-4)
    assert expected_N.std() > 0.005  # or the comparison says nothing


def test_the_heads_settings_are_read_from_the_configuration(tmp_path: Path) -> None:
    heads = {
        kind: load(save_model(tmp_path / str(i), ARCHITECTURES[kind])).head
        for i, kind in enumerate(ARCHITECTURES)
    }
    assert heads["softcap (Gemma 2)"].softcap == 0.5
    assert heads["factor (Cohere)"].scale == 0.0625
    assert heads["divisor (Granite)"].scale == 0.25
    assert heads["bias (Phi)"].bias_V is not None
    plain = heads["plain (Qwen 3)"]
    assert (plain.bias_V, plain.scale, plain.softcap) == (None, 1.0, None)


@pytest.mark.parametrize(
    "setting", [{"final_logit_softcapping": 0.5}, {"logit_scale": 0.9}, {"logits_scaling": 2.0}]
)
def test_a_head_that_does_not_give_the_models_logits_is_refused(
    tmp_path: Path, setting: dict[str, float]
) -> None:
    # Llama knows none of these settings, so believing the configuration would be wrong.
    folder = save_model(tmp_path / "odd", llama_config(**setting))
    with pytest.raises(ModelError, match="LlamaForCausalLM computes its logits") as caught:
        load(folder)
    assert caught.value.where == str(folder)


def test_a_model_without_a_linear_projection_is_refused(tiny_llama: Path) -> None:
    model = load(tiny_llama).model
    model.lm_head = nn.Identity()
    with pytest.raises(ModelError, match="no linear output projection"):
        output_head(model, "some/model")


# Dropout


def test_every_dropout_is_overridden_and_nothing_else() -> None:
    config = OPTConfig(dropout=0.1, attention_dropout=0.2, activation_dropout=0.0, layerdrop=0.3)
    assert without_dropout(config) == {"dropout": 0.0, "attention_dropout": 0.0, "layerdrop": 0.0}


@pytest.mark.parametrize(
    "config",
    [
        OPTConfig(**OPT_LIKE, word_embed_proj_dim=HIDDEN, dropout=0.5, attention_dropout=0.5),
        GPT2Config(**GPT2_LIKE, resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5),
    ],
    ids=["OPT", "GPT-2"],
)
def test_a_base_with_dropout_is_deterministic_in_training_mode(
    config: PretrainedConfig, tmp_path: Path
) -> None:
    base = load(save_model(tmp_path, config))
    base.model.train()
    ids = make_batch(base).input_ids
    assert torch.equal(logits_of(base.model, ids), logits_of(base.model, ids))


# bitsandbytes on CPU


@pytest.mark.parametrize("quantization", ["nf4", "fp4"])
def test_no_4bit_layer_of_a_loaded_base_may_repack_itself(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch, quantization: str
) -> None:
    # As on a CPU with AVX512_BF16, whatever this one is.
    monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: True)
    assert bnb.nn.Linear4bit(64, 64).support_avx512bf16_for_cpu is True
    base = load(tiny_llama, quantization)
    layers = [m for m in base.model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_the_cure_leaves_other_layers_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), bnb.nn.Linear4bit(64, 64))
    model[1].support_avx512bf16_for_cpu = True
    forbid_cpu_repacking(model)
    assert model[1].support_avx512bf16_for_cpu is False
    assert not hasattr(model[0], "support_avx512bf16_for_cpu")


# Unsound bases


def test_a_quantized_mixture_of_experts_is_refused(tmp_path: Path) -> None:
    config = MixtralConfig(**LLAMA_LIKE, num_local_experts=2, num_experts_per_tok=1)
    folder = save_model(tmp_path / "moe", config)
    with pytest.raises(ModelError, match=r"experts.* mixture-of-experts") as caught:
        load(folder, "nf4")
    assert caught.value.where == str(folder)
    load(folder)  # unquantized, nothing escapes


def test_a_weight_that_was_never_loaded_is_refused() -> None:
    model: Any = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with pytest.raises(ModelError, match=r"the weight 1\.weight is offloaded") as caught:
        refuse_unsound_base(model, "some/model", quantized=False)
    assert caught.value.where == "some/model"
    refuse_unsound_base(model[:1], "some/model", quantized=True)


# Packing


def test_a_plain_architecture_is_packed(tiny_llama: Path) -> None:
    packing = load(tiny_llama).packing
    assert packing == Packing(None, None)
    assert packing.takes(10**6)


def test_a_model_that_computes_packed_rows_differently_is_not_packed(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_wrong_positions(groups: Any) -> Batch:
        batch = pack(groups)
        assert batch.layout is not None
        straight = torch.arange(batch.input_ids.shape[1])[None]
        return replace(batch, layout=replace(batch.layout, position_ids=straight))

    monkeypatch.setattr(base_checks, "pack", with_wrong_positions)
    packing = load(tiny_llama).packing
    assert packing.refused == "LlamaForCausalLM computes packed rows differently"
    assert not packing.takes(1)


def test_a_model_that_does_not_pass_the_layout_on_is_not_packed(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_layout(decoder: nn.Module, ids_BT: torch.Tensor, layout: Any = None) -> Any:
        return decoder(input_ids=ids_BT, position_ids=layout and layout.position_ids)[0]

    monkeypatch.setattr(base_checks, "run_decoder", without_layout)
    assert "differently" in str(load(tiny_llama).packing.refused)


def test_a_model_without_position_ids_is_not_packed(tiny_llama: Path) -> None:
    model = load(tiny_llama).model
    decoder = model.get_decoder()
    decoder.forward = lambda input_ids, **keys: None  # type: ignore[method-assign]
    assert prove_packing(model).refused == "LlamaForCausalLM takes no position ids"


def test_a_model_with_an_attention_of_its_own_is_not_packed(tmp_path: Path) -> None:
    base = load(save_model(tmp_path, ARCHITECTURES["softcap (Gemma 2)"]))
    assert base.packing.refused == "Gemma2ForCausalLM has an attention of its own"


def test_a_sliding_window_bounds_what_is_packed(tmp_path: Path) -> None:
    config = MistralConfig(**LLAMA_LIKE, sliding_window=16)
    packing = load(save_model(tmp_path, config)).packing
    assert (packing.refused, packing.longest) == (None, 16)
    assert packing.takes(16)
    assert not packing.takes(17)
