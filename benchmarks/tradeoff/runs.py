"""One method with one seed: a run directory like any other, left as it is if it is finished."""

import json
import time
from pathlib import Path
from typing import Any

from benchmarks.tradeoff.methods import Method
from benchmarks.unlearning_objectives import OBJECTIVES
from lora_sku import pipeline
from lora_sku.adapters import read_lora
from lora_sku.artifacts import RunDirectory
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import load_recipe
from lora_sku.storage import write_json

PKU = Path(__file__).with_name("pku.yaml")
NOTES = "tradeoff.json"
FILES = {
    "data.forget.path": "pku_saferlhf_train.jsonl",
    "data.forget_unseen.path": "pku_saferlhf_test.jsonl",
    "data.protect.truthfulqa.path": "TruthfulQA.csv",
}


def recipe_of(method: Method, data: Path | None, seed: int, settings: tuple[str, ...]) -> Recipe:
    """The method's recipe.

    Args:
        method: What differs.
        data: Folder of PKU-SafeRLHF and TruthfulQA; None takes the demo's data.
        seed: Of the adapter and the draws; the split of the data is the same for all.
        settings: Further KEY=VALUE for every method.
    """
    name = "smollm2-135m" if data is None else str(PKU)
    files = () if data is None else tuple(f"{key}={data / file}" for key, file in FILES.items())
    return load_recipe(name, (*files, f"training.seed={seed}", *settings, *method.overrides))


def run_method(method: Method, recipe: Recipe, folder: Path) -> None:
    """Run it, and keep what else the table tells, unless that is there."""
    if (folder / NOTES).exists():
        return
    began = time.monotonic()
    objective = None if method.objective is None else OBJECTIVES[method.objective]
    result = pipeline.run(recipe, output=folder, overwrite=True, objective=objective)
    provenance = read_lora(result.adapter).provenance
    assert provenance is not None, "this run wrote the adapter"
    notes = {
        "seconds": time.monotonic() - began,
        "peak_gib": max(peak.working_gib for peak in result.memory.values()),
        "strength": provenance.strength,
    }
    write_json(folder / NOTES, notes)


def figures(folder: Path) -> dict[str, Any]:
    """What a finished run left: its evaluation, and `run_method`'s notes."""
    evaluation = json.loads(RunDirectory(folder).evaluation.read_text(encoding="utf-8"))
    notes = json.loads((folder / NOTES).read_text(encoding="utf-8"))
    return {"evaluation": evaluation, **notes}
