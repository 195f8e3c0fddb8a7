"""Where a base runs and in which dtype it computes."""

from collections.abc import Mapping

import torch

from lora_sku.errors import ModelError
from lora_sku.recipe import BaseModelSection


def choose_device(section: BaseModelSection) -> torch.device:
    """The device that the recipe asks for.

    Raises:
        ModelError: if it asks for CUDA and there is none.
    """
    if section.device == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "base_model.device is cuda, but PyTorch sees no CUDA device",
            remedy="Install a CUDA build of PyTorch, or set base_model.device: cpu.",
        )
    if section.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def choose_compute_dtype(section: BaseModelSection, device: torch.device) -> torch.dtype:
    """`fast_dtype`, unless the recipe says.

    float16 is never chosen: without loss scaling its gradients underflow.
    """
    if section.compute_dtype != "auto":
        chosen: torch.dtype = getattr(torch, section.compute_dtype)
        return chosen
    return fast_dtype(device)


def fast_dtype(device: torch.device) -> torch.dtype:
    """bf16 where ``device`` multiplies it natively, else fp32."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        native = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if native else torch.float32


def random_states(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of every random generator that training on ``device`` draws from, by name."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Put back what `random_states` gave for the same kind of device."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
