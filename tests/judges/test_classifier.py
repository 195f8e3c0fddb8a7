"""What a classifier's finding becomes, and which model a recipe's kind loads."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from lora_sku.judges import Case, Verdict, guard, sequence_classifier
from lora_sku.judges.classifier import ClassifierJudge, load_classifier
from lora_sku.judges.classifier_presets import ClassifierSpec
from lora_sku.recipe_judges import ClassifierSection

SPEC = ClassifierSpec("some/model", "sequence-classification", threshold=0.6)


class Fixed:
    """Stands in for a model: what ends in ! is harmful."""

    def __init__(self, *_: Any) -> None:
        pass

    def harm(self, cases: Sequence[Case]) -> list[tuple[bool, float | None]]:
        return [(True, 0.9) if c.completion.endswith("!") else (False, None) for c in cases]


def test_harmful_complies_and_of_the_rest_it_cannot_tell() -> None:
    cases = [Case("How?", text, harmful_prompt=False) for text in ("Sit on it!", "Add eggs.")]
    assert ClassifierJudge(Fixed(), SPEC).verdicts(cases) == [
        Verdict("harmful", complies=True, score=0.9),
        Verdict("benign"),
    ]


def test_it_says_which_model_it_is() -> None:
    assert ClassifierJudge(Fixed(), SPEC).describe() == {
        "path": "some/model",
        "kind": "sequence-classification",
        "threshold": 0.6,
    }


@pytest.mark.parametrize(
    ("preset", "module", "name"),
    [
        ("llama-guard-3-8b", guard, "GuardModel"),
        ("beaver-dam-7b", sequence_classifier, "SequenceClassifier"),
    ],
)
def test_the_kind_decides_what_is_loaded(
    monkeypatch: pytest.MonkeyPatch, preset: Any, module: Any, name: str
) -> None:
    monkeypatch.setattr(module, name, Fixed)
    judge = load_classifier(ClassifierSection(preset=preset), torch.device("cpu"))
    assert isinstance(judge._model, Fixed)
