"""A model that takes another rank for each method is the model that was made with that rank."""

from pathlib import Path

import pytest
import torch
from tiny import adapt, load, logits_of, teach

from benchmarks.tradeoff_training import set_rank
from lora_sku.model import ACQUIRED, Base


@pytest.mark.parametrize("rslora", [False, True])
def test_another_rank_is_as_if_the_adapter_had_been_made_with_it(
    base: Base, tiny_llama: Path, rslora: bool
) -> None:
    keys = {"use_rslora": rslora}
    made = adapt(load(tiny_llama), r=4, lora_alpha=8, **keys)
    turned = adapt(base, r=16, lora_alpha=16 if rslora else 32, **keys)
    teach(turned, seed=1)
    set_rank(turned, 4)
    token_ids = torch.tensor([[5, 6, 7]])
    with turned.reference_mode():
        as_base = logits_of(turned.peft_model, token_ids)
    assert torch.equal(logits_of(turned.peft_model, token_ids), as_base)  # all factors are 0

    teach(made, seed=2)
    learned = made.adapter_parameters()
    assert {name: half.shape for name, half in turned.adapter_parameters().items()} == {
        name: half.shape for name, half in learned.items()
    }
    with torch.no_grad():
        for name, half in turned.adapter_parameters().items():
            half.copy_(learned[name])
    ours = logits_of(turned.peft_model, token_ids)
    assert torch.allclose(ours, logits_of(made.peft_model, token_ids), atol=1e-5)
    assert not torch.allclose(ours, as_base, atol=1e-3)
    config = turned.peft_model.peft_config[ACQUIRED]
    assert (config.r, config.lora_alpha) == (4, 8)
    set_rank(turned, 4)
    assert torch.equal(logits_of(turned.peft_model, token_ids), ours)  # the same rank keeps them
