"""Killed and resumed is never killed, bitwise; and nobody resumes somebody else's run."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from run_tools import (
    ADAPTER,
    Killed,
    KilledAt,
    changed,
    metrics_of,
    tree,
    with_everything,
    write_recipe,
)
from safetensors.torch import load_file, save_file

from lora_sku import pipeline, session
from lora_sku.errors import StorageError, TrainingError, UserError
from lora_sku.progress import Silent
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import load_recipe

STEPS = [1, 2, 3, 4, 5]


@pytest.fixture
def recipe(recipe: Recipe, tmp_path: Path) -> Recipe:
    """5 steps of every loss with a checkpoint after 2, 4 and 5, a changing rate and dropout to
    remember.
    """
    return changed(
        with_everything(recipe, tmp_path),
        training={"max_steps": 5, "warmup_steps": 2},
        adapter={"lora_dropout": 0.1},
        evaluation={"max_prompts": 2, "max_generations": 1},
    )


@pytest.fixture
def never_killed(recipe: Recipe, tmp_path: Path) -> Path:
    return pipeline.run(recipe, output=tmp_path / "never-killed").folder


def kill(recipe: Recipe, **when: Any) -> Path:
    with pytest.raises(Killed):
        pipeline.run(recipe, progress=KilledAt(**when))
    return Path(recipe.output_dir)


def same_run(resumed: Path, never_killed: Path) -> None:
    assert tree(resumed) == tree(never_killed)
    assert [line["step"] for line in metrics_of(resumed)] == STEPS
    assert metrics_of(resumed) == metrics_of(never_killed)
    for name in (f"adapter/{ADAPTER}", "evaluation.json", "generations.jsonl"):
        assert (resumed / name).read_bytes() == (never_killed / name).read_bytes()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_killed_after_any_step_and_resumed_is_never_killed(
    recipe: Recipe, tmp_path: Path, step: int, quantization: str
) -> None:
    recipe = changed(recipe, base_model={"quantization": quantization})
    never_killed = pipeline.run(recipe, output=tmp_path / "never-killed").folder
    folder = kill(recipe, step=step)
    assert not (folder / "adapter").exists()
    pipeline.run(recipe, resume=True)
    same_run(folder, never_killed)


def test_killed_twice_and_resumed_is_never_killed(recipe: Recipe, never_killed: Path) -> None:
    folder = kill(recipe, step=3)
    with pytest.raises(Killed):
        pipeline.run(recipe, resume=True, progress=KilledAt(step=5))
    pipeline.run(recipe, resume=True)
    same_run(folder, never_killed)


def test_a_resumed_run_takes_only_the_steps_that_are_missing(recipe: Recipe) -> None:
    kill(recipe, step=5)

    class Watcher(KilledAt):
        steps: list[int] = []  # noqa: RUF012

        def step(self, record: Any, max_steps: int) -> None:
            self.steps.append(record.step)

    pipeline.run(recipe, resume=True, progress=Watcher())
    assert Watcher.steps == [5]  # killed before the checkpoint of step 5, after that of step 4


def test_killed_between_the_stages(
    recipe: Recipe, never_killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(session, "negate", die)
        with pytest.raises(Killed):
            pipeline.run(recipe)
    folder = Path(recipe.output_dir)
    assert (folder / "harmful-adapter" / "DO-NOT-SHIP").is_file()
    assert not (folder / "adapter").exists()
    pipeline.run(recipe, resume=True)
    same_run(folder, never_killed)


def test_killed_in_the_evaluation_trains_nothing_again(
    recipe: Recipe, never_killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = kill(recipe, stage="evaluate")
    assert not (folder / "checkpoints").exists()
    assert not (folder / "harmful-adapter").exists()
    written = (folder / "adapter" / ADAPTER).stat().st_mtime_ns
    monkeypatch.setattr(session, "Acquisition", None)  # nobody may call it
    pipeline.run(recipe, resume=True)
    assert (folder / "adapter" / ADAPTER).stat().st_mtime_ns == written
    same_run(folder, never_killed)


def test_killed_while_the_harmful_weights_are_being_removed(
    recipe: Recipe, never_killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(session.RunDirectory, "remove_harmful_weights", die)
        with pytest.raises(Killed):
            pipeline.run(recipe)
    folder = Path(recipe.output_dir)
    assert (folder / "harmful-adapter").exists()
    pipeline.run(recipe, resume=True)
    same_run(folder, never_killed)


def test_a_process_killed_outright_goes_on(recipe: Recipe, never_killed: Path) -> None:
    folder = Path(recipe.output_dir)
    path = write_recipe(recipe, folder.parent / "recipe.yaml")
    code = f"""
import os, signal, torch
torch.set_num_threads(1)
from lora_sku import load_recipe, pipeline
from lora_sku.progress import Silent
class Killer(Silent):
    def step(self, record, max_steps):
        if record.step == 3:
            os.kill(os.getpid(), signal.SIGKILL)
pipeline.run(load_recipe({str(path)!r}), progress=Killer())
"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    assert [line["step"] for line in metrics_of(folder)] == [1, 2, 3]
    assert (folder / "checkpoints" / "step-000002").is_dir()
    # What a kill in the middle of writing would have left, harmful weights in it.
    for name in (".harmful-adapter.x1", "checkpoints/.step-000004.x2", ".adapter.x3"):
        (folder / name).mkdir()
        (folder / name / "half").touch()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    pipeline.run(recipe, resume=True)
    assert not list(folder.glob(".harmful*"))
    assert not list(folder.glob(".adapter*"))
    same_run(folder, never_killed)


# What is refused


@pytest.mark.parametrize("stage", ["before the first checkpoint", "after it", "in the evaluation"])
@pytest.mark.parametrize(
    ("sections", "name"),
    [
        ({"training": {"learning_rate": 1e-3}}, r"training\.learning_rate"),
        ({"losses": {"guided_distortion": {"weight": 1.0}}}, r"losses\.guided_distortion\.weight"),
        ({"adapter": {"r": 8}}, r"adapter\.r"),
        ({"base_model": {"quantization": "int8"}}, r"base_model\.quantization"),
        ({"negation": {"strength": 0.5}}, r"negation\.strength"),
        ({"data": {"max_answer_tokens": 9}}, r"data\.max_answer_tokens"),
        ({"data": {"forget": {"max_prompts": 11}}}, "the forget or retain set"),
        ({"data": {"hard_negatives": {"max_prompts": 7}}}, "the forget or retain set"),
        ({"data": {"safe_responses": None}}, "the forget or retain set"),
        (
            {"data": {"hard_negatives": {"answers": "own"}}},
            r"data\.hard_negatives\.answers was 'given' and is now 'own'",
        ),
        ({"data": {"protect": {"sums": {"answers": "both"}}}}, r"data\.protect\.sums\.answers"),
        ({"losses": {"held_responses": {"weight": 1.0}}}, r"losses\.held_responses\.weight"),
        ({"losses": {"safe_response": {"answers": ["No."]}}}, r"losses\.safe_response\.answers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_recipe_is_not_resumed(
    recipe: Recipe, sections: Any, name: str, stage: str
) -> None:
    if stage == "in the evaluation":
        folder = kill(changed(recipe, training={"max_steps": 3}), stage="evaluate")
        recipe = changed(recipe, training={"max_steps": 3})
    else:
        folder = kill(recipe, step=1 if stage == "before the first checkpoint" else 3)
    before = tree(folder)
    with pytest.raises(
        TrainingError, match=f"something else: {name}.*--resume.*--overwrite"
    ) as caught:
        pipeline.run(changed(recipe, **sections), resume=True)
    assert str(folder) in str(caught.value)
    assert tree(folder) == before
    assert load_recipe(folder / "recipe.yaml") == recipe


def test_other_data_in_the_same_file_is_not_resumed(recipe: Recipe) -> None:
    kill(recipe, step=3)
    with Path(recipe.data.retain.path).open("a") as file:
        file.write('{"prompt": "What is the colour of ink?", "response": "It is blue."}\n')
    with pytest.raises(
        TrainingError, match="the forget or retain set, or a protected one, holds other"
    ):
        pipeline.run(recipe, resume=True)


def test_the_same_data_elsewhere_is_resumed(recipe: Recipe, tmp_path: Path) -> None:
    kill(recipe, step=3)
    sections = {
        "retain": recipe.data.retain,
        "hard_negatives": recipe.data.hard_negatives,
        "safe_responses": recipe.data.safe_responses,
    }
    moved = {}
    for name, source in sections.items():
        assert source is not None
        path = Path(source.path).rename(tmp_path / f"moved-{name}.jsonl")
        moved[name] = {"path": str(path)}
    path = Path(recipe.data.protect["sums"].path).rename(tmp_path / "moved-sums.jsonl")
    moved["protect"] = {"sums": {"path": str(path)}}
    pipeline.run(changed(recipe, data=moved), resume=True)


def test_a_protected_set_that_went_is_told(recipe: Recipe) -> None:
    kill(recipe, step=3)
    values = recipe.model_dump()
    values["data"]["protect"] = {}
    with pytest.raises(TrainingError, match=r"data\.protect\.sums was .* and is now None"):
        pipeline.run(Recipe.model_validate(values), resume=True)


def test_other_weights_under_the_same_path_are_not_resumed(recipe: Recipe, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in Path(recipe.base_model.path).iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    recipe = changed(recipe, base_model={"path": str(model)})
    kill(recipe, step=3)
    tensors = load_file(model / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"] * 2
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainingError, match="another base model"):
        pipeline.run(recipe, resume=True)


def test_the_recipe_in_the_run_directory_is_all_that_resuming_needs(
    recipe: Recipe, tmp_path: Path
) -> None:
    folder = tmp_path / "elsewhere"
    pipeline.acquire(recipe, output=folder)
    result = pipeline.run(load_recipe(folder / "recipe.yaml"), resume=True)
    assert result.folder == folder
    assert not Path(recipe.output_dir).exists()


def test_resuming_a_finished_run_says_so(recipe: Recipe) -> None:
    told: list[str] = []

    class Notes(Silent):
        def note(self, text: str) -> None:
            told.append(text)

    pipeline.run(recipe, progress=Notes())
    assert told == []
    pipeline.run(recipe, resume=True, progress=Notes())
    assert [text for text in told if "finished" in text] == told != []


def test_the_evaluation_may_change(recipe: Recipe) -> None:
    folder = kill(recipe, stage="evaluate")
    other = changed(recipe, evaluation={"max_prompts": 1})
    pipeline.run(other, resume=True)
    assert (
        json.loads((folder / "evaluation.json").read_text())["counts"]["forget_seen_prompts"] == 1
    )
    assert load_recipe(folder / "recipe.yaml") == other


def test_there_must_be_a_run_to_resume(recipe: Recipe) -> None:
    with pytest.raises(StorageError, match="no run to resume"):
        pipeline.run(recipe, resume=True)
    assert not Path(recipe.output_dir).exists()


def test_a_stopped_run_does_not_begin_again_unasked(recipe: Recipe) -> None:
    folder = kill(recipe, step=3)
    before = tree(folder)
    with pytest.raises(StorageError, match="already here"):
        pipeline.run(recipe)
    assert tree(folder) == before


def test_overwriting_a_stopped_run_begins_again(recipe: Recipe, never_killed: Path) -> None:
    folder = kill(recipe, step=3)
    pipeline.run(recipe, overwrite=True)
    same_run(folder, never_killed)


# What a stopped training leaves


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_with_the_last_good_state(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    from lora_sku import step

    calls = iter(range(100))
    real = step.preservation_divergence

    def broken(*args: Any, **keys: Any) -> Any:
        loss, shown = real(*args, **keys)
        return (loss, shown) if next(calls) < 6 else (loss, shown * value)  # two faces a step

    monkeypatch.setattr(step, "preservation_divergence", broken)
    with pytest.raises(UserError, match=rf"step 4: preservation_divergence became {value}"):
        pipeline.run(recipe)
    folder = Path(recipe.output_dir)
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-000002"]
    assert not (folder / "adapter").exists()
    assert not (folder / "harmful-adapter").exists()
    assert [line["step"] for line in metrics_of(folder)] == [1, 2, 3]
