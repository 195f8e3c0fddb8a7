"""Computed bytes are those of the real tensors."""

from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch
from planning_tools import RANK, pair
from tiny import adapt, llama_config, load, save_model
from torch import nn

from lora_sku.planning.shapes import LinearShape
from lora_sku.planning.statics import (
    base_bytes,
    factor_sizes,
    linear_weight_bytes,
    optimizer_bytes,
    optimizer_step_bytes,
    workspace_bytes,
)


def real_base_bytes(model: nn.Module) -> int:
    total = sum(p.nbytes for p in model.parameters())
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            state: Any = module.weight.quant_state
            nested = state.state2
            for tensor in (state.absmax, state.code, state.offset, nested.absmax, nested.code):
                total += tensor.nbytes
        if isinstance(module, bnb.nn.Linear8bitLt):
            total += (
                module.weight.SCB if module.weight.SCB is not None else module.state.SCB
            ).nbytes
    return total


@pytest.mark.parametrize("quantization", ["nf4", "fp4", "int8", "none"])
@pytest.mark.parametrize("tied", [True, False])
def test_base_bytes_are_the_loaded_models(tmp_path: Path, quantization: Any, tied: bool) -> None:
    # Wide enough for several blocks of the nested quantization.
    config = llama_config(hidden_size=128, intermediate_size=640, tie_word_embeddings=tied)
    folder = save_model(tmp_path, config)
    both = pair(folder, quantization)
    real = real_base_bytes(load(folder, quantization, compute_dtype="bfloat16").model)
    assert base_bytes(both.shape, quantization, torch.bfloat16) == real


def test_nf4_takes_the_known_bytes_a_weight() -> None:
    weight = LinearShape("w", 4096, 4096)
    double, flat = (
        linear_weight_bytes(weight, "nf4", torch.bfloat16, double=d) / weight.weights
        for d in (True, False)
    )
    assert double == pytest.approx(0.515869, abs=1e-4)
    assert flat == pytest.approx(0.5625, abs=1e-4)


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj")])
def test_adapters_are_pefts(tmp_path: Path, targets: Any) -> None:
    folder = save_model(tmp_path, llama_config())
    model = adapt(load(folder, "nf4"), r=RANK, target_modules=targets, layers_to_transform=(1,))
    sizes = factor_sizes(pair(folder).shape.adapted(targets, (1,)), RANK)
    assert sorted(sizes) == sorted(p.numel() for p in model.trained_parameters().values())


def test_optimizer_states_are_the_real_ones() -> None:
    parameters = [nn.Parameter(torch.zeros(n)) for n in (100, 4096, 10_000)]
    sizes = [p.numel() for p in parameters]
    for p in parameters:
        p.grad = torch.ones_like(p)
    torch_adam = torch.optim.AdamW(parameters)
    torch_adam.step()
    moments = [s[k] for s in torch_adam.state.values() for k in ("exp_avg", "exp_avg_sq")]
    assert sum(m.nbytes for m in moments) == optimizer_bytes(sizes, "adamw_torch")
    adam_8bit = bnb.optim.AdamW8bit(parameters)
    for index, p in enumerate(parameters):
        adam_8bit.init_state(adam_8bit.param_groups[0], p, 0, index)
    names = ("state1", "state2", "absmax1", "absmax2")
    states = [s[k] for s in adam_8bit.state.values() for k in names if k in s]
    for name in ("adamw_8bit", "paged_adamw_8bit"):
        assert sum(m.nbytes for m in states) == optimizer_bytes(sizes, name)  # type: ignore[arg-type]


def test_only_torchs_adam_on_cuda_makes_more_at_the_update() -> None:
    assert optimizer_step_bytes(100, "adamw_torch", "cuda") == 100
    assert optimizer_step_bytes(100, "adamw_torch", "cpu") == 0
    assert optimizer_step_bytes(100, "paged_adamw_8bit", "cuda") == 0


def test_the_workspace_is_the_largest_dequantized_weight(tmp_path: Path) -> None:
    shape = pair(save_model(tmp_path, llama_config())).shape
    assert workspace_bytes(shape, "nf4", torch.bfloat16) == 64 * 128 * 2 + 64 * 128 // 64 * 4
    assert workspace_bytes(shape, "int8", torch.float32) == 64 * 128 * 4
    assert workspace_bytes(shape, "none", torch.float32) == 0
