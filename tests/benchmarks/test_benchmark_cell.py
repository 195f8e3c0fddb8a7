"""A cell measures load, train and negate, alone and in a process of its own."""

from dataclasses import asdict
from pathlib import Path

import pytest
from tiny import load

from benchmarks.cell import Cell, above_weights_gib, measure
from benchmarks.methods import METHODS
from benchmarks.processes import empty_process_gib, run_cell, run_twice
from benchmarks.workload import Lengths
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import dump_recipe

LENGTHS = Lengths(prompt_tokens=6, answer_tokens=4, responses=2, prompts=1)
MIB = 1 / 1024


def cell(model: Path, **keys: object) -> Cell:
    values = asdict(Cell("ours", model=str(model), lengths=LENGTHS, compute_dtype="float32"))
    return Cell.from_dict(values | keys)


@pytest.mark.parametrize("method", METHODS)
def test_every_phase_has_its_figures(tiny_llama: Path, method: str) -> None:
    chosen = cell(tiny_llama, method=method, quantization="none")
    result = measure(chosen)
    assert Cell.from_dict(result["cell"]) == chosen
    assert list(result["phases"]) == ["load", "train", "negate"]
    for figures in result["phases"].values():
        assert figures["peak_gib"] >= figures["after_gib"] - MIB > 0.05
        assert figures["peak_anonymous_gib"] + figures["peak_file_gib"] > 0.05
    assert len(result["losses"]) == 2
    # Forget, random and retain answers.
    assert result["answer_tokens"] == (1 + 2 + 1) * 4


def test_a_cell_of_a_recipe(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "cell.yaml"
    file.write_text(dump_recipe(recipe))
    result = measure(Cell("textbook", recipe=str(file), steps=1))
    assert result["phases"].keys() == {"load", "train", "negate"}


def test_a_process_more_counts_the_live_tensors(tiny_llama: Path) -> None:
    chosen = cell(tiny_llama, steps=1)
    result = run_twice(chosen)
    assert Cell.from_dict(result["cell"]) == chosen
    weights = sum(p.nbytes for p in load(tiny_llama).model.parameters()) * MIB / 2**20
    assert weights < result["live_tensors_gib"] < weights + 20 * MIB


def test_a_cell_that_failed_is_not_run_again(tiny_llama: Path) -> None:
    result = run_twice(cell(tiny_llama), minutes=1 / 600)
    assert "live_tensors_gib" not in result


def test_above_the_weights_counts_own_memory_or_what_cuda_reserved() -> None:
    load = {"after_gib": 2.0, "after_anonymous_gib": 1.0}
    train = {"peak_gib": 5.0, "peak_anonymous_gib": 3.5, "reserved_gib": None}
    assert above_weights_gib({"phases": {"load": load, "train": train}}) == 2.5
    train["reserved_gib"] = 5.0
    assert above_weights_gib({"phases": {"load": load, "train": train}}) == 3.0


def test_a_process_of_its_own_prints_what_was_measured(tiny_llama: Path) -> None:
    result = run_cell(cell(tiny_llama, steps=1))
    assert result["phases"]["train"]["peak_gib"] > 0.1
    assert 0.05 < empty_process_gib() < result["phases"]["train"]["peak_gib"]


def test_a_cell_that_does_not_fit_is_told_apart(tiny_llama: Path) -> None:
    lengths = asdict(Lengths(prompt_tokens=100, answer_tokens=100, responses=3, prompts=100))
    large = cell(tiny_llama, method="textbook", lengths=lengths, limit_gib=0.1)
    result = run_cell(large, minutes=2)
    assert "memory" in result["failed"]
    assert "phases" not in result


def test_a_cell_that_takes_too_long_is_told_apart(tiny_llama: Path) -> None:
    result = run_cell(cell(tiny_llama), minutes=1 / 600)
    assert result["failed"] == "not done after 0.00166667 minutes"
