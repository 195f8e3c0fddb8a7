"""A base's weights from disk into memory, quantized one tensor at a time.

transformers maps whole shards into memory: each page that was read once counts as resident until
the load is over, and on a CPU what is not quantized stays a view into the files, so they are never
let go. For a 7B model that is 12 GiB beside the 4 GiB that it needs. Here the tensors are read from
the files instead, so only one of them exists in full precision at a time.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    BitsAndBytesConfig,
    PreTrainedModel,
)

from lora_sku.base_checks import without_dropout
from lora_sku.heap import release_free_memory
from lora_sku.recipe import Quantization


def load_weights(
    folder: Path, *, quantization: Quantization, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """The causal language model in ``folder``, in evaluation mode, every dropout rate 0.

    Args:
        folder: config.json and .safetensors files.
        quantization: How its linear layers are stored.
        dtype: Of everything else, and of the matrix products.
        device: Where it goes.

    Raises:
        ValueError, OSError, KeyError: transformers' own, for a folder that it cannot load.
    """
    config = AutoConfig.from_pretrained(folder)
    config.update(without_dropout(config))
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{type(config).__name__} is no causal language model's configuration")
    model_class = cast("type[PreTrainedModel]", MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])
    with ExitStack() as files:
        weights: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            # "pread" reads; the default would map the file.
            file = files.enter_context(safe_open(path, framework="pt", backend="pread"))
            weights |= {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        loaded: Any = model_class.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=dtype,
            device_map={"": device},
            quantization_config=_bitsandbytes_config(quantization, dtype),
            output_loading_info=True,
        )
    model, info = loaded
    if info["missing_keys"]:  # transformers would fill them with random numbers
        raise ValueError(f"its files have no {', '.join(sorted(info['missing_keys'])[:3])}")
    release_free_memory()
    assert isinstance(model, PreTrainedModel)
    model.eval()
    return model


def _bitsandbytes_config(
    quantization: Quantization, dtype: torch.dtype
) -> BitsAndBytesConfig | None:
    if quantization == "none":
        return None
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    # Everything said: the library's defaults are fp4, fp32 compute and no double quantization.
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_use_double_quant=True,
    )
