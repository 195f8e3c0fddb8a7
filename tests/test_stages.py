"""What the stages share: each one's memory is measured, and its end is said."""

import pytest
from run_tools import changed
from torch import OutOfMemoryError

from lora_sku import pipeline, stages
from lora_sku.errors import PlanError
from lora_sku.recipe import Recipe


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"), True),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("a bug"), False),
    ],
)
def test_a_stage_without_memory_is_named(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, error: RuntimeError, told: bool
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(stages, "evaluate_model", fails)
    with pytest.raises(PlanError if told else RuntimeError) as caught:
        pipeline.run(changed(recipe, training={"max_steps": 1}))
    if told:
        assert "memory ran out in the stage 'evaluate'. `lora-sku plan`" in str(caught.value)
        assert caught.value.__cause__ is error
    else:
        assert caught.value is error
