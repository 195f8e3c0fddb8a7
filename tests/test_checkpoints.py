"""Checkpoints: going on from one is as if the run had never stopped."""

import json
from collections.abc import Callable
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from torch import nn

from lora_sku.checkpoints import CheckpointStore
from lora_sku.errors import TrainingError

IDENTITY = {"recipe": {"r": 4}, "data": "abc", "base": "def"}
Parameters = dict[str, nn.Parameter]
MakeOptimizer = Callable[[Parameters], torch.optim.Optimizer]


def adamw(parameters: Parameters) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters.values(), lr=0.05)


def adamw_8bit(parameters: Parameters) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = bnb.optim.AdamW8bit(parameters.values(), lr=0.05)
    return optimizer


OPTIMIZERS = [adamw, adamw_8bit]


def make_parameters(seed: int = 0) -> Parameters:
    torch.manual_seed(seed)
    # bitsandbytes quantizes the state of tensors of 4096 numbers and more.
    shapes = {"a": (4, 6), "b": (64, 64), "c": (128, 32)}
    return {name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}


def train(parameters: Parameters, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        for parameter in parameters.values():
            parameter.grad = torch.randn(parameter.shape)  # consumes the generator's state
        optimizer.step()


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS)
def test_restored_and_trained_on_equals_never_stopped_bitwise(
    tmp_path: Path, make_optimizer: MakeOptimizer
) -> None:
    parameters = make_parameters()
    optimizer = make_optimizer(parameters)
    train(parameters, optimizer, 3)
    CheckpointStore(tmp_path, IDENTITY).save(3, parameters, optimizer)
    saved = {name: p.detach().clone() for name, p in parameters.items()}
    train(parameters, optimizer, 3)

    resumed = make_parameters(seed=1)
    fresh_optimizer = make_optimizer(resumed)
    torch.manual_seed(99)
    assert CheckpointStore(tmp_path, IDENTITY).restore(resumed, fresh_optimizer) == 3
    for name, parameter in resumed.items():
        assert torch.equal(parameter, saved[name])
    train(resumed, fresh_optimizer, 3)
    for name, parameter in resumed.items():
        assert torch.equal(parameter, parameters[name])


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS)
def test_saving_disturbs_neither_the_weights_nor_the_optimizer(
    tmp_path: Path, make_optimizer: MakeOptimizer
) -> None:
    results = []
    for save in (False, True):
        parameters = make_parameters()
        optimizer = make_optimizer(parameters)
        train(parameters, optimizer, 2)
        if save:
            CheckpointStore(tmp_path, IDENTITY).save(2, parameters, optimizer)
        train(parameters, optimizer, 2)
        results.append(parameters)
    for name in results[0]:
        assert torch.equal(results[0][name], results[1][name])


def test_nothing_in_a_checkpoint_needs_unpickling(tmp_path: Path) -> None:
    parameters = make_parameters()
    optimizer = adamw(parameters)
    train(parameters, optimizer, 1)
    store = CheckpointStore(tmp_path, IDENTITY)
    store.save(1, parameters, optimizer)
    newest = store.newest()
    assert newest is not None
    assert {path.suffix for path in newest.iterdir()} == {".safetensors", ".json"}
    assert json.loads((newest / "state.json").read_text())["identity"] == IDENTITY


def test_without_a_checkpoint_a_run_starts_at_step_0_and_nothing_changes(tmp_path: Path) -> None:
    parameters = make_parameters()
    store = CheckpointStore(tmp_path / "not" / "there", IDENTITY)
    assert store.newest() is None
    assert store.restore(parameters, adamw(parameters)) == 0
    for name, expected in make_parameters().items():
        assert torch.equal(parameters[name], expected)


@pytest.mark.parametrize("key", IDENTITY)
def test_another_recipe_data_or_base_is_refused_by_name(tmp_path: Path, key: str) -> None:
    parameters = make_parameters()
    optimizer = adamw(parameters)
    train(parameters, optimizer, 1)
    CheckpointStore(tmp_path, IDENTITY).save(1, parameters, optimizer)
    saved = {name: p.detach().clone() for name, p in parameters.items()}
    train(parameters, optimizer, 1)
    changed = {name: p.detach().clone() for name, p in parameters.items()}
    store = CheckpointStore(tmp_path, IDENTITY | {key: "other"})
    with pytest.raises(TrainingError, match=f"started with another {key},") as caught:
        store.restore(parameters, optimizer)
    assert caught.value.where == str(tmp_path / "step-000001")
    for name, parameter in parameters.items():
        assert torch.equal(parameter, changed[name])
        assert not torch.equal(parameter, saved[name])


def test_only_the_newest_few_are_kept_and_the_newest_is_restored(tmp_path: Path) -> None:
    parameters = make_parameters()
    optimizer = adamw(parameters)
    store = CheckpointStore(tmp_path, IDENTITY, keep=2)
    for step in (5, 10, 100):
        train(parameters, optimizer, 1)
        store.save(step, parameters, optimizer)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000010", "step-000100"]
    assert store.newest() == tmp_path / "step-000100"
    assert store.restore(parameters, optimizer) == 100


def test_half_written_and_foreign_folders_are_no_checkpoints(tmp_path: Path) -> None:
    parameters = make_parameters()
    optimizer = adamw(parameters)
    train(parameters, optimizer, 1)
    # What a kill leaves behind, and what a user may.
    half = tmp_path / ".step-000009.x1y2z3"
    half.mkdir()
    (tmp_path / "step-000007-copy").mkdir()
    store = CheckpointStore(tmp_path, IDENTITY, keep=1)
    assert store.newest() is None
    store.save(3, parameters, optimizer)
    assert store.newest() == tmp_path / "step-000003"
    assert half.exists()


def test_a_save_that_fails_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = make_parameters()
    optimizer = adamw(parameters)
    train(parameters, optimizer, 1)
    store = CheckpointStore(tmp_path, IDENTITY, keep=1)
    store.save(1, parameters, optimizer)

    def fail(*_: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr("lora_sku.checkpoints.save_file", fail)
    with pytest.raises(RuntimeError, match="killed"):
        store.save(2, parameters, optimizer)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
