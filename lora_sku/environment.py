"""Versions, device and revisions: what a later reader needs to run the same again."""

import platform
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch

from lora_sku.model import Base

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "datasets",
    "safetensors",
)
OPTIONAL_PACKAGES = ("lm_eval",)


def package_version() -> str:
    """The installed lora-sku's version."""
    return version("lora-sku")


def describe_environment(base: Base, data_fingerprint: str, seed: int) -> dict[str, Any]:
    """environment.json: versions, device, seed, and the revisions of model and data."""
    device = base.device
    return {
        "lora_sku": package_version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {
            name: version(name)
            for name in (*PACKAGES, *(name for name in OPTIONAL_PACKAGES if find_spec(name)))
        },
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "compute_dtype": str(base.compute_dtype).removeprefix("torch."),
        "seed": seed,
        "base_model": {
            "path": base.located.written,
            "revision": base.located.revision,
            "fingerprint": base.fingerprint,
        },
        "data_fingerprint": data_fingerprint,
    }
