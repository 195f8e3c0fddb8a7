"""Runs on what the base itself says: its own answers are trained on, its own prompts preserved."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from run_tools import ADAPTER, Killed, KilledAt, changed, datasets
from safetensors.torch import load_file

from lora_sku import elicitation, own_prompts, pipeline, session
from lora_sku.errors import TrainingError
from lora_sku.judges import Judge, Verdict
from lora_sku.recipe import Recipe


class Complies(Judge):
    """Takes every text of a random model for an answer."""

    name = "compliance"

    def _judge(self, cases: Any) -> list[Verdict]:
        return [Verdict("harmful", complies=True) for _ in cases]


def spy_on_training(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Will hold the forget and the normal rows that a run trains on."""
    trained: list[Any] = []
    real = session.Acquisition

    def spy(*args: Any) -> Any:
        trained.extend(args[2:4])
        return real(*args)

    monkeypatch.setattr(session, "Acquisition", spy)
    return trained


@pytest.fixture
def own_recipe(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recipe:
    """The base's own answers on both sides; none of them is refused."""
    monkeypatch.setenv("LORA_SKU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(elicitation.ComplianceJudge, "calibrated", lambda *_, **__: Complies())
    monkeypatch.setattr(elicitation, "classify", lambda _: "other")
    keys = {"forget": {"answers": "own"}, "retain": {"answers": "both"}}
    return changed(recipe, data={**keys, "own_answers": {"max_new_tokens": 6}})


@pytest.mark.parametrize("preserve", [True, False])
def test_own_prompts_are_scored_and_preserved_if_they_may_be(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, preserve: bool
) -> None:
    monkeypatch.setenv("LORA_SKU_CACHE", str(tmp_path / "cache"))
    for module in (elicitation, own_prompts):
        monkeypatch.setattr(module, "classify", lambda _: "other")
    trained = spy_on_training(monkeypatch)
    drawn = {"count": 40, "max_new_tokens": 12, "preserve": preserve}
    result = pipeline.run(
        changed(
            recipe,
            data={"own_prompts": drawn, "own_answers": {"max_new_tokens": 6}},
        )
    )
    retained = len(datasets(recipe).retain.train)
    assert len(trained[1]) >= retained + 5 if preserve else len(trained[1]) == retained
    assert "own_prompts" in result.evaluation.as_dict()["protected"]
    assert "elicit" in result.memory


def test_own_answers_are_trained_on_and_the_evaluation_tells_the_selectivity(
    own_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = spy_on_training(monkeypatch)
    result = pipeline.run(own_recipe)
    assert {"elicit", "elicit unseen"} <= result.memory.keys()
    given = datasets(own_recipe)
    harmful, normal = trained
    of_given = {row.prompt: row.answers for row in (*given.forget.train, *given.retain.train)}
    assert all(not set(row.answers) & set(of_given[row.prompt]) for row in harmful)
    assert all(row.answers[:1] == of_given[row.prompt][:1] for row in normal)
    assert any(len(row.answers) > 1 for row in normal)
    told = json.loads((result.folder / "evaluation.json").read_text())["own_answers"]
    assert told["forget_answers"] > 0
    assert told["selectivity"] == told["forget_kl"] / told["retain_kl"] > 0
    assert "Selectivity" in (result.adapter / "README.md").read_text()


def test_a_resumed_run_finds_the_same_own_answers(
    own_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pipeline.run(own_recipe, output=tmp_path / "whole")
    with pytest.raises(Killed):
        pipeline.run(own_recipe, progress=KilledAt(step=3))
    result = pipeline.run(own_recipe, resume=True)
    weights = [load_file(r.adapter / ADAPTER) for r in (whole, result)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    # Had they been others, the checkpoint would not be gone on from.
    with pytest.raises(Killed):
        pipeline.run(own_recipe, overwrite=True, progress=KilledAt(step=3))
    (file,) = (tmp_path / "cache" / "own-answers").iterdir()
    said = [json.loads(line) for line in file.read_text().splitlines()]
    others = [
        {**entry, "completions": [{"text": f"No {n}.", "ended": True}]}
        for n, entry in enumerate(said)
    ]
    file.write_text("".join(json.dumps(entry) + "\n" for entry in others))
    with pytest.raises(TrainingError, match="own answers"):
        pipeline.run(own_recipe, resume=True)
    asked = changed(own_recipe, data={"forget": {"answers": "both"}})
    with pytest.raises(TrainingError, match=r"data\.forget\.answers was 'own'"):
        pipeline.run(asked, resume=True)
