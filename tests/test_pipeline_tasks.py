"""Tasks of lm-evaluation-harness in a run: found first, measured last but for the judges."""

import json
from pathlib import Path
from typing import Any

import pytest
from run_tools import changed

from lora_sku import pipeline, stages
from lora_sku.errors import JudgeError, TaskError
from lora_sku.model import Base
from lora_sku.recipe import LmEvalSection, Recipe
from lora_sku.report import read_run
from lora_sku.task_scores import Measured


class FakeTasks:
    """Its accuracy tells whether the adapters are on."""

    def measure(self, base: Base, batch_size: int, on_task: object) -> Measured:
        layers = [m for m in base.model.modules() if hasattr(m, "lora_A")]
        on = sum(not layer._disable_adapters for layer in layers)
        return Measured(
            {"colours": {"acc": float(on > 0), "batch": float(batch_size)}}, {"colours": 6}
        )


@pytest.fixture
def asked(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A short run that asks for a task, which is a stand-in."""

    def load_tasks(section: LmEvalSection) -> FakeTasks:
        assert section == LmEvalSection(tasks=("colours",))
        return FakeTasks()

    monkeypatch.setattr(stages, "load_tasks", load_tasks)
    keys: dict[str, Any] = {"lm_eval": ["colours"], "per_device_eval_batch_size": 3}
    return changed(recipe, training={"max_steps": 1}, evaluation=keys)


def test_a_run_scores_both_models(asked: Recipe) -> None:
    result = pipeline.run(asked)
    written = json.loads((result.folder / "evaluation.json").read_text())
    assert written == result.evaluation.as_dict()
    assert written["lm_eval"] == {
        "colours": {
            "acc": {"base": 0.0, "unlearned": 1.0},
            "batch": {"base": 3.0, "unlearned": 3.0},
        }
    }
    assert written["counts"]["lm_eval_colours_documents"] == 6
    for name in ("report.html", "adapter/README.md"):
        assert "colours" in (result.folder / name).read_text()
    assert list(result.memory)[-2:] == ["evaluate", "lm-eval"]
    assert read_run(result.folder).missing == ()
    assert pipeline.evaluate(asked, result.adapter).lm_eval == result.evaluation.lm_eval


def test_tasks_that_fail_leave_the_evaluation_behind(
    asked: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> Measured:
        raise ValueError("a task's own bug")

    with monkeypatch.context() as broken:
        broken.setattr(FakeTasks, "measure", fails)
        with pytest.raises(ValueError, match="own bug"):
            pipeline.run(asked)
    folder = Path(asked.output_dir)
    assert json.loads((folder / "evaluation.json").read_text())["lm_eval"] == {}
    (told,) = read_run(folder).missing
    assert "lm-evaluation-harness" in told
    assert pipeline.run(asked, resume=True).evaluation.lm_eval != {}


def test_a_judge_that_fails_leaves_the_tasks_behind(
    asked: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_judge(*_: Any) -> None:
        raise JudgeError("nobody there")

    monkeypatch.setattr(stages, "build_judge", build_judge)
    with pytest.raises(JudgeError):
        pipeline.run(changed(asked, evaluation={"judges": ["refusal"]}))
    written = json.loads((Path(asked.output_dir) / "evaluation.json").read_text())
    assert list(written["lm_eval"]) == ["colours"]


def test_tasks_that_cannot_be_had_are_told_before_anything_is_loaded(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    adapter = pipeline.run(changed(recipe, training={"max_steps": 1})).adapter

    def refuses(section: LmEvalSection) -> None:
        raise TaskError(f"there is no task {section.tasks[0]}")

    monkeypatch.setattr(stages, "load_tasks", refuses)
    monkeypatch.setattr(pipeline, "load_tasks", refuses)
    monkeypatch.setattr(stages, "load_base", lambda *_: pytest.fail("loaded"))
    asked = changed(recipe, evaluation={"lm_eval": ["colors"]})
    for refuse in (
        lambda: pipeline.run(asked, output=tmp_path / "new"),
        lambda: pipeline.evaluate(asked, adapter),
        lambda: pipeline.validate(asked),
    ):
        with pytest.raises(TaskError, match="no task colors"):
            refuse()
    assert not (tmp_path / "new").exists()
