"""The stages of a run in its directory: where one may begin, and what it plans and tells."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES
from run_tools import RUN_FILES, Killed, KilledAt, changed, metrics_of, tree
from tiny import save_model

from lora_sku import pipeline, session, stages
from lora_sku.errors import (
    AdapterError,
    DataError,
    ModelError,
    PlanError,
    SourceError,
    StorageError,
    TrainingError,
)
from lora_sku.planning import plan
from lora_sku.progress import Silent
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import load_recipe
from lora_sku.step import StepGradients

# Where a run may begin


def test_a_run_does_not_replace_another_unless_told_to(recipe: Recipe) -> None:
    short = changed(recipe, training={"max_steps": 1})
    pipeline.run(short)
    with pytest.raises(StorageError, match=r"already here.*--resume.*--overwrite.*--output"):
        pipeline.run(recipe)
    assert load_recipe(Path(recipe.output_dir) / "recipe.yaml") == short
    pipeline.run(recipe, overwrite=True)
    assert [line["step"] for line in metrics_of(Path(recipe.output_dir))] == [1, 2, 3, 4]
    assert tree(Path(recipe.output_dir)) == RUN_FILES


def test_overwriting_removes_only_what_a_run_wrote(recipe: Recipe) -> None:
    folder = Path(recipe.output_dir)
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(Killed):
        pipeline.run(recipe, progress=KilledAt(step=3))
    (folder / "trackers").mkdir()
    (folder / "trackers" / "old").touch()
    pipeline.run(changed(recipe, training={"max_steps": 1}), overwrite=True)
    assert tree(folder) == sorted([*RUN_FILES, "notes.txt"])


def test_output_takes_the_place_of_the_recipes_folder(recipe: Recipe, tmp_path: Path) -> None:
    short = changed(recipe, training={"max_steps": 1})
    result = pipeline.run(short, output=tmp_path / "else" / "where")
    assert result.folder == tmp_path / "else" / "where"
    assert tree(result.folder) == RUN_FILES
    assert not Path(recipe.output_dir).exists()


@pytest.mark.parametrize(
    ("sections", "error", "match"),
    [
        ({"data": {"forget": {"path": "./gone.jsonl"}}}, SourceError, "gone.jsonl"),
        ({"data": {"max_prompt_tokens": 12}}, DataError, "longer than 12 tokens"),
        ({"base_model": {"path": "./gone"}}, SourceError, "gone"),
        ({"adapter": {"target_modules": ["nosuch"]}}, AdapterError, "Linear layers here: down_pr"),
        ({"training": {"optim": "adamw_8bit"}}, TrainingError, "needs a CUDA device"),
        (
            {"losses": {"random_disassociation": {"responses": 99}}},
            DataError,
            "losses.random_disassociation.responses",
        ),
        (
            {"negation": {"strength": "auto"}},
            DataError,
            r"negation\.refusals_budget: .*It takes 88",
        ),
    ],
    ids=["data", "long", "model", "modules", "optimizer", "answers", "too few to sweep"],
)
def test_a_run_that_cannot_begin_touches_nothing(
    recipe: Recipe, sections: Any, error: type[Exception], match: str
) -> None:
    folder = Path(recipe.output_dir)
    broken = changed(recipe, **sections)
    with pytest.raises(error, match=match):
        pipeline.run(broken)
    assert not folder.exists()
    folder.mkdir()
    for name in ("recipe.yaml", "metrics.jsonl"):
        (folder / name).write_text("an old run")
    with pytest.raises(error, match=match):
        pipeline.run(broken, overwrite=True)
    assert tree(folder) == ["metrics.jsonl", "recipe.yaml"]
    assert (folder / "recipe.yaml").read_text() == "an old run"


def test_weights_that_cannot_be_loaded_leave_the_old_run(
    recipe: Recipe, calm_llama: Path, tmp_path: Path
) -> None:
    pipeline.run(changed(recipe, training={"max_steps": 1}))
    before = {p: p.read_bytes() for p in Path(recipe.output_dir).rglob("*") if p.is_file()}
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in calm_llama.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"model_type": "nosuch"}))
    with pytest.raises(ModelError):
        pipeline.run(changed(recipe, base_model={"path": str(broken)}), overwrite=True)
    assert {p: p.read_bytes() for p in before} == before


def test_a_full_disk_is_refused_before_anything_is_written(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 100_000

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    with pytest.raises(StorageError, match="may write"):
        pipeline.run(recipe)
    assert not Path(recipe.output_dir).exists()


def test_the_space_a_run_asks_for_holds_all_it_writes(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(session, "require_free_space", lambda _, needed: asked.append(needed))
    with pytest.raises(Killed):
        pipeline.run(recipe, progress=KilledAt(stage="evaluate"))
    parameters = 2 * 4 * (64 + 64 + 64 + 32 + 64 + 32 + 64 + 64 + 3 * (64 + 128))
    assert asked == [4 * parameters * (3 * 3 + 2)]


# Planning first


def test_a_run_that_cannot_fit_is_refused_before_anything_is_loaded_or_replaced(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pipeline.run(recipe).folder
    before = tree(folder)
    monkeypatch.setattr(session, "free_bytes", lambda device: 2**20)
    monkeypatch.setattr(stages, "load_base", None)
    with pytest.raises(PlanError, match="at least"):
        pipeline.run(recipe, overwrite=True)
    assert tree(folder) == before


def test_the_planned_micro_batch_is_the_one_that_is_run(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = changed(recipe, training={"per_device_train_batch_size": 4, "max_steps": 3})
    needed = plan(recipe, device="cpu", micro_batch=3).stage("acquire").total
    monkeypatch.setattr(session, "free_bytes", lambda device: needed)
    told: list[str] = []
    watcher = Silent()
    watcher.note = told.append  # type: ignore[method-assign]
    result = pipeline.run(recipe, progress=watcher)
    assert [line["micro_batch_prompts"] for line in metrics_of(result.folder)] == [3] * 3
    memory = json.loads((result.folder / "memory.json").read_text())
    assert memory["predicted"]["micro_batch"] == 3
    assert {stage["stage"] for stage in memory["predicted"]["stages"]} == {"acquire", "evaluate"}


def test_a_step_out_of_memory_is_told(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = StepGradients.accumulate, []

    def fail_once(gradients: StepGradients, draw: Any) -> Any:
        calls.append(gradients.micro_batch_prompts)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return real(gradients, draw)

    monkeypatch.setattr(StepGradients, "accumulate", fail_once)
    told: list[str] = []
    watcher = Silent()
    watcher.note = told.append  # type: ignore[method-assign]
    pipeline.run(recipe, progress=watcher)
    assert calls == [2, 2, 1, 1, 1]
    assert told == [
        "Out of memory in step 2: repeated with 1 prompts at once, and so go the steps after it."
    ]


def test_a_base_that_cannot_be_packed_is_told(recipe: Recipe, tmp_path: Path) -> None:
    config = ARCHITECTURES["softcap (Gemma 2)"]
    model = save_model(tmp_path / "gemma", config)
    told: list[str] = []
    watcher = Silent()
    watcher.note = told.append  # type: ignore[method-assign]
    pipeline.acquire(changed(recipe, base_model={"path": str(model)}), progress=watcher)
    assert len(told) == 1
    assert told[0].startswith("Gemma2ForCausalLM has an attention of its own, so each prompt")
