"""Shared fixtures; what tests call by name is in tiny.py and run_tools.py."""

import os
from pathlib import Path

import pytest
import torch
from run_tools import Finished, finish, save_calm_model, tiny_recipe
from tiny import llama_config, load, save_model

from lora_sku.model import Base
from lora_sku.recipe import Recipe


def pytest_configure() -> None:
    # Tiny matrices: more threads cost more than they bring, in the processes of tests as well.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Llama with 2 layers and a tokenizer, bf16 safetensors; never write to it."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny-llama", llama_config())


@pytest.fixture(scope="session")
def other_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture with other weights."""
    return save_model(tmp_path_factory.mktemp("models") / "other-llama", llama_config(), seed=1)


@pytest.fixture
def base(tiny_llama: Path) -> Base:
    """The tiny Llama, unquantized, fp32; fresh for each test, since PEFT changes it in place."""

    return load(tiny_llama)


@pytest.fixture(scope="session")
def calm_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama that guesses no worse than chance, as a run demands; never write to it."""
    return save_calm_model(tmp_path_factory.mktemp("models") / "calm-llama")


@pytest.fixture
def recipe(calm_llama: Path, tmp_path: Path) -> Recipe:
    """The smallest recipe of a whole run, into a folder of its own."""
    return tiny_recipe(calm_llama, tmp_path)


@pytest.fixture(scope="session")
def kept(calm_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A long and strong run that keeps its harmful adapter."""
    return finish(
        calm_llama,
        tmp_path_factory.mktemp("kept"),
        negation={"keep_harmful_adapter": True, "strength": 0.5},
        training={"max_steps": 12, "learning_rate": 2e-2, "save_steps": 5},
    )
