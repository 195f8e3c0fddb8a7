"""A .gguf base model, unpacked once into a folder of bf16 safetensors.

transformers cannot load a GGUF file with a bitsandbytes configuration in one call, so the file is
dequantized, saved in a cache, and loaded from there like any other model.
"""

import hashlib
import struct
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from lora_sku.errors import ModelError
from lora_sku.storage import atomic_folder, cache_folder

_READ_BYTES = 1 << 20


def unpacked_folder(file: Path) -> Path:
    """Where ``file``'s model is or will be unpacked; named after the file's content."""
    return cache_folder() / "gguf" / _sha256(file)[:16]


def unpack_gguf(file: Path) -> Path:
    """The folder with ``file``'s model and tokenizer in bf16 safetensors, made if it is missing.

    Raises:
        ModelError: if transformers cannot read the file.
        StorageError: if the cache cannot be written.
    """
    folder = unpacked_folder(file)
    if folder.is_dir():
        return folder
    try:
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # struct.error and IndexError: transformers reads past the end of a file that was cut short.
    except (ValueError, KeyError, NotImplementedError, OSError, struct.error, IndexError) as error:
        raise ModelError(
            f"this GGUF file cannot be read: {error}",
            where=str(file),
            remedy="Use the model's safetensors version, or a GGUF of an architecture that"
            " transformers supports.",
        ) from error
    with atomic_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    return folder


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as handle:
        while block := handle.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
