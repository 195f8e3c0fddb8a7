"""Model folders of any Llama shape with random weights: one tensor in memory, whatever the size.

The files look like a hub model's (bf16 safetensors, in shards as large as Llama-2-7B's own), so
that loading one costs what loading the real one costs. The tokenizer knows bytes only.
"""

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from lora_sku.storage import atomic_folder

SHARD_BYTES = 9_900_000_000  # Llama-2-7B's first shard on the hub
SPECIAL_TOKENS = ("<s>", "</s>", "<pad>")
_BYTES = 2  # of a bf16 number
_STD = 0.02


@dataclass(frozen=True)
class LlamaShape:
    """The numbers that make a Llama; transformers' names."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Name and shape of every weight, in the order of the model."""
        hidden, inner = self.hidden_size, self.intermediate_size
        key_value = hidden // self.num_attention_heads * self.num_key_value_heads
        yield "model.embed_tokens.weight", (self.vocab_size, hidden)
        for layer in range(self.num_hidden_layers):
            prefix = f"model.layers.{layer}"
            for name, shape in (
                ("self_attn.q_proj", (hidden, hidden)),
                ("self_attn.k_proj", (key_value, hidden)),
                ("self_attn.v_proj", (key_value, hidden)),
                ("self_attn.o_proj", (hidden, hidden)),
                ("mlp.gate_proj", (inner, hidden)),
                ("mlp.up_proj", (inner, hidden)),
                ("mlp.down_proj", (hidden, inner)),
                ("input_layernorm", (hidden,)),
                ("post_attention_layernorm", (hidden,)),
            ):
                yield f"{prefix}.{name}.weight", shape
        yield "model.norm.weight", (hidden,)
        yield "lm_head.weight", (self.vocab_size, hidden)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(shape) for _, shape in self.tensors())


SHAPES = {
    "tiny": LlamaShape(64, 2, 4, 2, 128, 512),
    "0.9b": LlamaShape(2048, 12, 32, 8, 8192, 32000),
    "1b": LlamaShape(2048, 16, 32, 8, 8192, 32000),
    "7b": LlamaShape(4096, 32, 32, 32, 11008, 32000),
}


def write_model(
    folder: Path, shape: LlamaShape, *, seed: int = 0, shard_bytes: int = SHARD_BYTES
) -> Path:
    """A random bf16 model of ``shape`` and a tokenizer, as a hub-like folder.

    Args:
        folder: Made whole or not at all.
        shape: Of the model.
        seed: Of the weights.
        shard_bytes: Shards are no larger, except for a single tensor that is.

    Raises:
        StorageError: if the folder cannot be written.
    """
    shards = list(_shards(shape, shard_bytes))
    generator = torch.Generator().manual_seed(seed)
    files: dict[str, str] = {}
    with atomic_folder(folder) as temporary:
        for number, shard in enumerate(shards, start=1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            _write_shard(temporary / file, shard, generator)
            files |= {name: file for name, _ in shard}
        index = {"metadata": {"total_size": shape.parameters * _BYTES}, "weight_map": files}
        (temporary / "model.safetensors.index.json").write_text(json.dumps(index))
        config = LlamaConfig(
            **asdict(shape),
            dtype="bfloat16",
            architectures=["LlamaForCausalLM"],
            max_position_embeddings=4096,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
        )
        config.save_pretrained(temporary)
        byte_tokenizer().save_pretrained(temporary)
    return folder


def is_whole(folder: Path) -> bool:
    """Whether a folder of `write_model` is there with all its shards at their full length."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return False
    try:
        for name in set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()):
            with safe_open(folder / name, framework="pt", backend="pread"):
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return True


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token a byte, and the three special ones in front: 259 in all."""
    symbols = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(symbols)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    bos, eos, pad = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad
    )


_Tensor = tuple[str, tuple[int, ...]]


def _shards(shape: LlamaShape, shard_bytes: int) -> Iterator[list[_Tensor]]:
    shard: list[_Tensor] = []
    size = 0
    for name, dimensions in shape.tensors():
        needed = math.prod(dimensions) * _BYTES
        if shard and size + needed > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append((name, dimensions))
        size += needed
    yield shard


def _write_shard(file: Path, shard: Sequence[_Tensor], generator: torch.Generator) -> None:
    """The safetensors format: length of the header, JSON header, the tensors' bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, dimensions in shard:
        start, end = end, end + math.prod(dimensions) * _BYTES
        header[name] = {"dtype": "BF16", "shape": dimensions, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the tensors begin at a multiple of 8
    with file.open("wb") as handle:
        handle.write(struct.pack("<Q", len(encoded)) + encoded)
        for _, dimensions in shard:
            tensor = torch.ones(dimensions, dtype=torch.bfloat16)  # a norm's weight
            if len(dimensions) > 1:
                tensor.normal_(std=_STD, generator=generator)
            handle.write(tensor.view(torch.int16).numpy().data)
