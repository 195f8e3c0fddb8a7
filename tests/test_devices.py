"""Where a base runs and in which dtype it computes."""

import pytest
import torch

from lora_sku.devices import (
    choose_compute_dtype,
    choose_device,
    random_states,
    restore_random_states,
)
from lora_sku.errors import ModelError
from lora_sku.recipe import BaseModelSection

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


def section(**keys: str) -> BaseModelSection:
    return BaseModelSection(path="x", **keys)  # type: ignore[arg-type]


def test_auto_takes_cuda_when_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert choose_device(section()) == torch.device("cuda", 3)
    assert choose_device(section(device="cuda")) == torch.device("cuda", 3)
    assert choose_device(section(device="cpu")) == CPU


def test_without_cuda_auto_is_cpu_and_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(section()) == CPU
    with pytest.raises(ModelError, match="sees no CUDA device"):
        choose_device(section(device="cuda"))


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("avx512_bf16", torch.bfloat16),
        ("amx_bf16", torch.bfloat16),
        ("bf16", torch.bfloat16),
        ("avx2", torch.float32),
    ],
)
def test_a_cpu_computes_in_bf16_only_natively(
    monkeypatch: pytest.MonkeyPatch, flag: str, expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True, "bmi": False})
    assert choose_compute_dtype(section(), CPU) == expected
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: False})
    assert choose_compute_dtype(section(), CPU) == torch.float32


@pytest.mark.parametrize("native", [True, False])
def test_a_card_that_only_emulates_bf16_computes_in_fp32(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    # Emulation is what is_bf16_supported counts unless told otherwise.
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: including_emulation or native,
    )
    expected = torch.bfloat16 if native else torch.float32
    assert choose_compute_dtype(section(), CUDA) == expected


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_the_recipe_may_choose_the_dtype(name: str) -> None:
    assert choose_compute_dtype(section(compute_dtype=name), CPU) == getattr(torch, name)


def test_random_states_put_back_repeat_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    states = random_states(CPU)
    first = torch.rand(3)
    assert not torch.equal(torch.rand(3), first)
    restore_random_states(states, CPU)
    assert torch.equal(torch.rand(3), first)


def test_cudas_own_generator_is_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: dict[torch.device, torch.Tensor] = {CUDA: torch.tensor([7], dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: kept[device])
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device: kept.update({device: state})
    )
    states = random_states(CUDA)
    kept[CUDA] = torch.tensor([8], dtype=torch.uint8)
    restore_random_states(states, CUDA)
    assert kept[CUDA].item() == 7
