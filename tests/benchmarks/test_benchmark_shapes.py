"""Random model folders look like real ones."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.shapes import SHAPES, LlamaShape, is_whole, write_model
from lora_sku.model import load_base
from lora_sku.recipe import BaseModelSection

SHAPE = LlamaShape(64, 2, 4, 2, 128, 300)


@pytest.mark.parametrize("shard_bytes", [60_000, 10**9], ids=["many shards", "one shard"])
def test_transformers_loads_every_weight(tmp_path: Path, shard_bytes: int) -> None:
    folder = write_model(tmp_path / "model", SHAPE, shard_bytes=shard_bytes)
    files = list(folder.glob("*.safetensors"))
    assert (len(files) > 1) == (shard_bytes < 10**9)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, output_loading_info=True
    )
    assert not any(info.values()), info
    written = {name: tensor for file in files for name, tensor in load_file(file).items()}
    loaded = dict(model.named_parameters())
    assert loaded.keys() == written.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in written.items())
    assert sum(p.numel() for p in loaded.values()) == SHAPE.parameters
    assert loaded["model.norm.weight"].eq(1).all()
    assert loaded["lm_head.weight"].float().std().item() == pytest.approx(0.02, rel=0.1)


def test_shards_are_no_larger_than_asked(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", SHAPE, shard_bytes=60_000)
    assert all(file.stat().st_size < 70_000 for file in folder.glob("*.safetensors"))


def test_a_cut_or_missing_shard_is_seen(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", SHAPE, shard_bytes=60_000)
    assert is_whole(folder)
    shard = sorted(folder.glob("*.safetensors"))[-1]
    whole = shard.read_bytes()
    for cut in (whole[:-1], whole[:4], b""):
        shard.write_bytes(cut)
        assert not is_whole(folder)
    shard.unlink()
    assert not is_whole(folder)
    assert not is_whole(tmp_path / "nowhere")


def test_lora_sku_takes_it_as_a_base(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", SHAPE)
    assert load_base(BaseModelSection(path=str(folder), quantization="nf4", device="cpu"))


def test_the_tokenizer_knows_every_byte(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(write_model(tmp_path / "model", SHAPE))
    assert len(tokenizer) == 259
    text = "Grüße, 数字\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    one, two, other = (
        write_model(tmp_path / name, SHAPE, seed=seed)
        for name, seed in (("one", 1), ("two", 1), ("other", 2))
    )
    file = "model-00001-of-00001.safetensors"
    assert (one / file).read_bytes() == (two / file).read_bytes()
    assert (one / file).read_bytes() != (other / file).read_bytes()


def test_the_named_shapes_are_as_large_as_they_say() -> None:
    assert SHAPES["7b"].parameters == 6_738_415_616  # Llama-2-7B's own count
    assert SHAPES["1b"].parameters == pytest.approx(1.1e9, rel=0.01)
    assert SHAPES["0.9b"].parameters == pytest.approx(0.86e9, rel=0.01)
