"""The optimizer and its learning rate at each step."""

import math

import bitsandbytes as bnb
import pytest
import torch

from lora_sku.errors import TrainingError
from lora_sku.optimization import learning_rate_schedule, make_optimizer
from lora_sku.recipe import TrainingSection

CPU = torch.device("cpu")


def training(**keys: object) -> TrainingSection:
    return TrainingSection.model_validate({"max_steps": 6, "learning_rate": 8e-4, **keys})


def parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(3))]


@pytest.mark.parametrize(
    ("kind", "warmup", "factors"),
    [
        ("linear", 0, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("linear", 2, [1 / 2, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5]),
        ("linear", 1, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", 0, [(1 + math.cos(math.pi * s / 6)) / 2 for s in range(6)]),
        ("cosine", 3, [1 / 3, 2 / 3, 1, 0.853553, 0.5, 0.146447]),
        ("constant_with_warmup", 0, [1] * 6),
        ("constant_with_warmup", 4, [1 / 4, 2 / 4, 3 / 4, 1, 1, 1]),
    ],
)
def test_the_learning_rate_follows_its_schedule(
    kind: str, warmup: int, factors: list[float]
) -> None:
    section = training(lr_scheduler_type=kind, warmup_steps=warmup)
    rate_at = learning_rate_schedule(make_optimizer(parameters(), section, CPU), section)
    rates = [rate_at(step) / 8e-4 for step in range(1, 7)]
    assert rates == pytest.approx(factors, abs=1e-6)
    # A pure function: a resumed run asks for a step in the middle first.
    assert rate_at(4) / 8e-4 == rates[3]


def test_auto_is_torchs_adamw_on_a_cpu_and_paged_8_bit_on_cuda() -> None:
    for optim in ("auto", "adamw_torch"):
        optimizer = make_optimizer(parameters(), training(optim=optim, weight_decay=0.125), CPU)
        assert type(optimizer) is torch.optim.AdamW
        assert optimizer.defaults["weight_decay"] == 0.125
    cuda = torch.device("cuda", 0)
    kinds = {
        optim: type(make_optimizer(parameters(), training(optim=optim), cuda))
        for optim in ("auto", "adamw_torch", "adamw_8bit", "paged_adamw_8bit")
    }
    assert kinds == {
        "auto": bnb.optim.PagedAdamW8bit,
        "adamw_torch": torch.optim.AdamW,
        "adamw_8bit": bnb.optim.AdamW8bit,
        "paged_adamw_8bit": bnb.optim.PagedAdamW8bit,
    }


@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw_8bit"])
def test_8_bit_optimizers_are_refused_on_a_cpu(optim: str) -> None:
    with pytest.raises(TrainingError, match=f"{optim} needs a CUDA") as caught:
        make_optimizer(parameters(), training(optim=optim), CPU)
    assert caught.value.where == "training.optim"
