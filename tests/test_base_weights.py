"""Weights from disk: the ones that transformers would load, and no file left mapped."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES
from safetensors.torch import load_file, save_file
from tiny import llama_config, logits_of, save_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from lora_sku.base_weights import load_weights
from lora_sku.recipe import Quantization

CPU = torch.device("cpu")
IDS = torch.arange(12).view(2, 6)


def read(folder: Path, quantization: Quantization = "none") -> PreTrainedModel:
    return load_weights(folder, quantization=quantization, dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("kind", ["Llama", *ARCHITECTURES])
def test_they_are_those_that_transformers_loads(kind: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path, ARCHITECTURES.get(kind, llama_config()))
    expected = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(logits_of(read(folder), IDS), logits_of(expected, IDS))


def test_shards_are_put_together(tiny_llama: Path, tmp_path: Path) -> None:
    expected = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    expected.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    assert torch.equal(logits_of(read(tmp_path / "sharded"), IDS), logits_of(expected, IDS))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_no_file_stays_mapped(tiny_llama: Path, quantization: Quantization) -> None:
    model = read(tiny_llama, quantization)
    assert str(tiny_llama) not in Path("/proc/self/maps").read_text()
    # Which transformers' own way does, or this says nothing.
    mapped = AutoModelForCausalLM.from_pretrained(tiny_llama)
    assert str(tiny_llama) in Path("/proc/self/maps").read_text()
    assert model.device == mapped.device


def test_a_file_without_some_weight_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny_llama, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"have no model\.layers\.1\.mlp\.up_proj\.weight"):
        read(broken)


def test_a_model_that_is_no_causal_language_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match="ViTConfig is no causal language model"):
        read(tmp_path)
