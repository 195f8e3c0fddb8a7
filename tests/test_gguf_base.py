"""A .gguf base: unpacked once, then like any other."""

import json
import os
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tiny import HIDDEN, VOCABULARY, load, logits_of, make_tokenizer
from transformers import AutoModelForCausalLM

from lora_sku import gguf_base
from lora_sku.errors import ModelError, StorageError
from lora_sku.gguf_base import unpack_gguf

IDS = torch.arange(5, 29).view(2, 12)
HEADS, KEY_HEADS = 4, 2


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LORA_SKU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """GGUF keeps the two halves of each rotary head row by row beside each other."""
    rows, columns = weight.shape
    return weight.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def write_gguf(folder: Path, file: Path) -> Path:
    """The tiny Llama in ``folder`` as an F32 .gguf file."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config: Any = model.config
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(VOCABULARY)
    _add_tokenizer(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        heads = {"q_proj": HEADS, "k_proj": KEY_HEADS}.get(name.split(".")[-2])
        stored = tensor if heads is None else interleaved(tensor, heads)
        target = names.get_name(name, try_suffixes=(".weight",))
        assert target is not None
        writer.add_tensor(target, stored.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokenizer = make_tokenizer()
    ids = {i: token for token, i in tokenizer.get_vocab().items()}
    special = set(tokenizer.all_special_tokens)
    tokens = [ids.get(i, f"<unused{i}>") for i in range(VOCABULARY)]
    kinds = [gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens]
    state = tokenizer.backend_tokenizer.to_str()
    merges = json.loads(state)["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(2)
    writer.add_chat_template(tokenizer.chat_template)


@pytest.fixture(scope="session")
def tiny_gguf(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tiny_llama, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_gguf_base_computes_what_its_safetensors_do(tiny_gguf: Path, tiny_llama: Path) -> None:
    base, expected = load(tiny_gguf), load(tiny_llama)
    assert base.fingerprint == expected.fingerprint
    torch.testing.assert_close(logits_of(base.model, IDS), logits_of(expected.model, IDS))
    text = "How do I spoil a cake?"
    assert base.tokenizer.decode(base.tokenizer(text)["input_ids"]).endswith(text)
    assert base.tokenizer.eos_token_id == 1
    assert base.located.path == tiny_gguf


def test_a_gguf_base_can_be_quantized(tiny_gguf: Path, tiny_llama: Path) -> None:
    base, expected = load(tiny_gguf, "nf4"), load(tiny_llama, "nf4")
    torch.testing.assert_close(logits_of(base.model, IDS), logits_of(expected.model, IDS))


def test_a_file_is_unpacked_once_into_bf16_safetensors(
    tiny_gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unpack_gguf(tiny_gguf)
    assert folder.parent == cache / "gguf"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir(folder))
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.bfloat16
    assert not hasattr(model.config, "quantization_config")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("unpacked again")

    monkeypatch.setattr(gguf_base.AutoModelForCausalLM, "from_pretrained", never)
    assert unpack_gguf(tiny_gguf) == folder


def test_the_cache_knows_files_by_their_content(tiny_gguf: Path, tmp_path: Path) -> None:
    folder = unpack_gguf(tiny_gguf)
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(tiny_gguf.read_bytes())
    assert unpack_gguf(copy) == folder
    content = bytearray(tiny_gguf.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    assert unpack_gguf(copy) != folder


@pytest.mark.parametrize("content", [b"", b"GGUF", b"this is no GGUF file at all" * 10])
def test_a_file_that_is_no_gguf_is_refused_and_leaves_no_cache(
    tmp_path: Path, cache: Path, content: bytes
) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read") as caught:
        load(file)
    assert caught.value.where == str(file)
    assert not list(cache.rglob("*.safetensors"))


@pytest.mark.parametrize("kept", [20, 50, 700, 4000, 9000, -100_000])
def test_a_cut_gguf_is_refused(tiny_gguf: Path, tmp_path: Path, kept: int) -> None:
    # In the header, in the metadata, in the table of tensors, in the weights.
    file = tmp_path / "cut.gguf"
    file.write_bytes(tiny_gguf.read_bytes()[:kept])
    with pytest.raises(ModelError, match="cannot be read"):
        unpack_gguf(file)


def test_a_cache_that_cannot_be_written_is_told(
    tiny_gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("in the way")
    with pytest.raises(StorageError, match="stands in the way"):
        unpack_gguf(tiny_gguf)
