"""A live adapter at other strengths, without a reload."""

from pathlib import Path

import pytest
import torch
from tiny import adapt, load, teach

from lora_sku.adapters import save_acquired
from lora_sku.live_factors import LiveFactors
from lora_sku.model import ACQUIRED, NEGATED, AdaptedModel, Base
from lora_sku.negation import negate


def taught(base: Base) -> AdaptedModel:
    model = adapt(base)
    teach(model)
    return model


@pytest.mark.parametrize("strength", [0.0, 1.0, 2.5])
def test_the_live_delta_is_minus_strength_times_the_task_vector(
    base: Base, strength: float
) -> None:
    model = taught(base)
    before = dict(model.deltas(ACQUIRED))
    LiveFactors(model, ACQUIRED).negate(strength)
    for module, delta in model.deltas(ACQUIRED):
        torch.testing.assert_close(delta, -strength * before[module])


def test_what_was_found_comes_back_bitwise(base: Base) -> None:
    model = taught(base)
    before = {name: p.clone() for name, p in model.trained_parameters().items()}
    live = LiveFactors(model, ACQUIRED)
    live.negate(0.3)
    live.restore()
    after = model.trained_parameters()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_negated_adapter_is_taken_for_the_multiple_that_it_is(
    base: Base, tiny_llama: Path, tmp_path: Path
) -> None:
    model = taught(base)
    deltas = list(model.deltas(ACQUIRED))
    save_acquired(model, ACQUIRED, tmp_path / "a")
    negate(tmp_path / "a", tmp_path / "n", strength=0.5)
    negated = AdaptedModel.with_adapter_from(load(tiny_llama), tmp_path / "n")
    LiveFactors(negated, NEGATED, multiple=-0.5).negate(2.0)
    for (_, delta), (_, live) in zip(deltas, negated.deltas(NEGATED), strict=True):
        torch.testing.assert_close(live, -2 * delta)
