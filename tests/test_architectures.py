"""A configuration is found where the model is, and nothing is downloaded."""

import json
from pathlib import Path

import pytest
from tiny import llama_config
from transformers import OPTConfig

from lora_sku.architectures import SHIPPED, find_config
from lora_sku.errors import ModelError
from lora_sku.gguf_base import unpacked_folder
from lora_sku.recipe import BaseModelSection
from lora_sku.recipe_file import load_recipe, shipped_recipes

COMMIT = "0" * 40


@pytest.fixture(autouse=True)
def empty_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("LORA_SKU_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_every_shipped_recipes_model_is_shipped() -> None:
    paths = {load_recipe(path).base_model.path for path in shipped_recipes().values()}
    assert paths == SHIPPED.keys()
    for path in paths:
        assert find_config(BaseModelSection(path=path)).vocab_size > 30_000


def test_a_folders_own_configuration_comes_first(tmp_path: Path) -> None:
    llama_config(hidden_size=128).save_pretrained(tmp_path)
    assert find_config(BaseModelSection(path=str(tmp_path))).hidden_size == 128


def test_dropout_is_off_as_in_a_run(tmp_path: Path) -> None:
    OPTConfig(dropout=0.3, attention_dropout=0.2).save_pretrained(tmp_path)
    config = find_config(BaseModelSection(path=str(tmp_path)))
    assert (config.dropout, config.attention_dropout) == (0.0, 0.0)


def test_the_hubs_cache_is_asked_and_not_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="planning downloads nothing") as caught:
        find_config(BaseModelSection(path="some/model"))
    assert "hf download some/model config.json" in str(caught.value.remedy)
    snapshot = tmp_path / "hub" / "models--some--model" / "snapshots" / COMMIT
    llama_config(hidden_size=192).save_pretrained(snapshot)
    found = find_config(BaseModelSection(path="some/model", revision=COMMIT))
    assert found.hidden_size == 192


def test_a_gguf_file_is_planned_from_its_unpacked_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF and the rest")
    with pytest.raises(ModelError, match="not been unpacked"):
        find_config(BaseModelSection(path=str(file)))
    llama_config(hidden_size=64).save_pretrained(unpacked_folder(file))
    assert find_config(BaseModelSection(path=str(file))).hidden_size == 64


@pytest.mark.parametrize("settings", [{}, {"model_type": "no-such-architecture"}])
def test_an_unknown_configuration_is_refused(tmp_path: Path, settings: dict[str, str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="does not know this configuration"):
        find_config(BaseModelSection(path=str(tmp_path)))


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        find_config(BaseModelSection(path=str(tmp_path / "empty")))


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{bad", encoding="utf-8")
    with pytest.raises(ModelError, match=r"config\.json.*no JSON|no JSON.*config\.json"):
        find_config(BaseModelSection(path=str(tmp_path)))


@pytest.mark.parametrize("path", ["./nofolder", "a/b/c"])
def test_a_path_that_leads_nowhere_is_no_hub_id(path: str) -> None:
    with pytest.raises(ModelError, match="no such folder here"):
        find_config(BaseModelSection(path=path))
