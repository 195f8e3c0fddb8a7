"""Judges that see texts only: they come last, alone, and may fail without loss."""

import json
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from run_tools import changed

from lora_sku import pipeline, stages
from lora_sku.errors import JudgeError
from lora_sku.judges import Case, Judge, JudgeName, Verdict
from lora_sku.pipeline import run
from lora_sku.recipe import Recipe


class Blunt(Judge):
    """Calls everything harmful; when it is built, it looks whether the base is still there."""

    name: ClassVar[JudgeName] = "refusal"

    def _judge(self, cases: Sequence[Case]) -> list[Verdict]:
        return [Verdict("harmful", complies=True)] * len(cases)


def test_text_judges_come_after_the_base_was_let_go(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    bases: list[weakref.ref[Any]] = []
    there: list[bool] = []
    real = stages.load_base

    def load_base(section: Any) -> Any:
        base = real(section)
        bases.append(weakref.ref(base.model))
        return base

    def build_judge(*_: Any) -> Judge:
        there.append(bases[0]() is not None)
        return Blunt()

    monkeypatch.setattr(stages, "load_base", load_base)
    monkeypatch.setattr(stages, "build_judge", build_judge)
    result = run(changed(recipe, evaluation={"judges": ["compliance", "refusal"]}))
    assert there == [False]
    assert len(bases) == 1
    written = json.loads((result.folder / "evaluation.json").read_text())
    assert list(written["judges"]) == ["compliance", "refusal"]
    assert written == result.evaluation.as_dict()
    line = json.loads((result.folder / "generations.jsonl").read_text().splitlines()[0])
    assert list(line["verdicts"]) == ["compliance", "refusal"]
    assert line["verdicts"]["refusal"]["base"].keys() == {"label", "complies", "score"}
    measured = json.loads((result.folder / "memory.json").read_text())["measured"]
    assert list(measured)[-2:] == ["evaluate", "judge: refusal"]


def test_a_judge_that_fails_leaves_the_evaluation_behind(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_judge(*_: Any) -> Judge:
        raise JudgeError("nobody there")

    with monkeypatch.context() as broken:
        broken.setattr(stages, "build_judge", build_judge)
        asked = changed(recipe, evaluation={"judges": ["compliance", "refusal"]})
        with pytest.raises(JudgeError):
            run(asked)
    folder = Path(recipe.output_dir)
    assert list(json.loads((folder / "evaluation.json").read_text())["judges"]) == ["compliance"]
    assert list(run(asked, resume=True).evaluation.judgements) == ["compliance", "refusal"]


def test_evaluate_asks_the_text_judges_too(recipe: Recipe) -> None:
    adapter = run(recipe).adapter
    asked = changed(recipe, evaluation={"judges": ["similarity", "refusal"]})
    evaluation = pipeline.evaluate(asked, adapter)
    assert list(evaluation.judgements) == ["similarity", "refusal"]
    assert evaluation.judgements["similarity"].rates["base"]["forget_unseen"].total == 2
