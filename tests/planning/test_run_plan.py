"""What a run does with a plan."""

from collections import namedtuple
from pathlib import Path

import psutil
import pytest
import torch
from run_tools import changed, tiny_recipe

from lora_sku.errors import PlanError
from lora_sku.memory import GIB
from lora_sku.planning import free_bytes, plan, plan_run, refuse_too_large, warning
from lora_sku.recipe import Recipe


@pytest.fixture
def recipe(tiny_llama: Path, tmp_path: Path) -> Recipe:
    training = {"per_device_train_batch_size": 4, "gradient_checkpointing": False}
    return changed(tiny_recipe(tiny_llama, tmp_path), training=training)


def total(recipe: Recipe, micro_batch: int) -> int:
    return plan(recipe, device="cpu", micro_batch=micro_batch).stage("acquire").total


def test_auto_begins_with_the_most_prompts_that_fit(recipe: Recipe) -> None:
    for prompts in (1, 2, 3, 4):
        free = total(recipe, prompts)
        assert plan_run(recipe, device="cpu", free=free).micro_batch == prompts
    assert plan_run(recipe, device="cpu", free=0).micro_batch == 1


def test_a_number_is_taken_as_it_is(recipe: Recipe) -> None:
    recipe = changed(recipe, training={"micro_batch_size": 2})
    assert plan_run(recipe, device="cpu", free=0).micro_batch == 2


def test_what_cannot_fit_is_refused_with_what_would_help(recipe: Recipe) -> None:
    least = plan(recipe, device="cpu", micro_batch=1, tokens=1).stage("acquire").total
    refuse_too_large(recipe, device="cpu", free=least)
    with pytest.raises(PlanError, match=r"at least 0\.\d GiB.*What would help: .* saves") as caught:
        refuse_too_large(recipe, device="cpu", free=least - 1)
    assert caught.value.where == recipe.base_model.path


def test_what_may_not_fit_is_told(recipe: Recipe) -> None:
    planned = plan(recipe, device="cpu")
    assert warning(planned, recipe, device="cpu", free=planned.total) is None
    told = warning(planned, recipe, device="cpu", free=planned.total - 1)
    assert told is not None
    assert f"{planned.total / GIB:.1f} GiB ({planned.peak.stage})" in told


def test_what_is_free_is_the_machines_or_the_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = namedtuple("machine", "available")(12345)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (777, 999))
    assert free_bytes(torch.device("cpu")) == 12345
    assert free_bytes(torch.device("cuda", 0)) == 777
