"""Whole runs on a tiny model: recipes, watchers that stop them, and what they leave behind."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tiny import llama_config, save_model, write_data, write_further, write_protected

from lora_sku import pipeline
from lora_sku.acquisition import StepRecord
from lora_sku.data import DataSets, Encoder, load_data
from lora_sku.model import load_tokenizer
from lora_sku.progress import Silent
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import dump_recipe

RUN_FILES = [
    "adapter/README.md",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "adapter/lora_sku.json",
    "environment.json",
    "evaluation.json",
    "generations.jsonl",
    "memory.json",
    "metrics.jsonl",
    "recipe.yaml",
    "report.html",
]
HARMFUL_FILES = [
    "harmful-adapter/DO-NOT-SHIP",
    "harmful-adapter/adapter_config.json",
    "harmful-adapter/adapter_model.safetensors",
    "harmful-adapter/lora_sku.json",
]
ADAPTER = "adapter_model.safetensors"


def save_calm_model(folder: Path) -> Path:
    """A tiny Llama with small logits, so that its loss starts near a blind guess's."""
    save_model(folder, llama_config())
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"] * 0.25
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def tiny_recipe(model: Path, folder: Path) -> Recipe:
    """4 steps of 2 prompts in fp32; data in ``folder/data``, the run in ``folder/run``."""
    return Recipe.model_validate(
        {
            "base_model": {
                "path": str(model),
                "quantization": "none",
                "compute_dtype": "float32",
                "device": "cpu",
            },
            "adapter": {"r": 4, "lora_alpha": 8},
            "data": write_data(folder / "data").model_dump(),
            "losses": {"random_disassociation": {"responses": 2}},
            "training": {
                "max_steps": 4,
                "learning_rate": 5e-3,
                "gradient_checkpointing": False,
                "save_steps": 2,
            },
            "evaluation": {"max_generations": 2, "max_new_tokens": 4},
            "output_dir": str(folder / "run"),
        }
    )


def changed(recipe: Recipe, **sections: Mapping[str, Any] | str) -> Recipe:
    """The recipe with other values: ``changed(recipe, training={"max_steps": 1})``."""
    return Recipe.model_validate(_merged(recipe.model_dump(), sections))


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = {
        key: _merged(old.get(key) or {}, value) if isinstance(value, Mapping) else value
        for key, value in new.items()
    }
    return {**old, **merged}


# Each term weighs something, on both faces.
EVERY_LOSS: dict[str, Any] = {
    "random_disassociation": {"responses": 2},
    "preservation_divergence": {"side": "both", "prompts": 2},
    "safe_response": {"weight": 1.0, "begun": 0.5},
    "held_responses": {"weight": 2.0},
}


def with_everything(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with every loss, and every set that it can have; the sets lie in ``folder``."""
    return changed(
        recipe,
        losses=EVERY_LOSS,
        data={
            "protect": write_protected(folder),
            "hard_negatives": write_further(folder, "hard_negatives"),
            "safe_responses": write_further(folder, "safe_responses"),
        },
        evaluation={"other_harm": write_further(folder, "other_harm")},
    )


def write_recipe(recipe: Recipe, path: Path) -> Path:
    """The recipe as a YAML file."""
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    return path


def datasets(recipe: Recipe) -> DataSets:
    """The data a run of the recipe sees."""
    return load_data(recipe.data, encoder_of(recipe))


def encoder_of(recipe: Recipe) -> Encoder:
    """The encoder a run of the recipe reads its data with."""
    return Encoder(
        load_tokenizer(recipe.base_model),
        template=None,
        max_prompt_tokens=recipe.data.max_prompt_tokens,
        max_answer_tokens=recipe.data.max_answer_tokens,
    )


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished run with all its answers scored, and what went in."""

    recipe: Recipe
    result: pipeline.RunResult

    def evaluation(self) -> dict[str, Any]:
        return json.loads((self.result.folder / "evaluation.json").read_text())


def finish(model: Path, folder: Path, **sections: Any) -> Finished:
    """A run of the tiny recipe with other values, to its end."""
    recipe = changed(tiny_recipe(model, folder), **sections)
    return Finished(recipe, pipeline.run(recipe))


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what no two runs share."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"], line["memory_gib"]
    return lines


def tree(folder: Path) -> list[str]:
    """Every file below a folder, hidden ones included."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


class Killed(BaseException):
    """What a process's death is to the code: nothing below may catch it."""


class KilledAt(Silent):
    """Watches a run and ends it after ``step``, or when ``stage`` begins."""

    def __init__(self, step: int | None = None, stage: str | None = None) -> None:
        self._step = step
        self._stage = stage

    def step(self, record: StepRecord, max_steps: int) -> None:
        if record.step == self._step:
            raise Killed

    def stage(self, name: str) -> None:
        if name == self._stage:
            raise Killed
