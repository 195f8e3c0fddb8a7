"""From a recipe's names to judges."""

from typing import Any

import pytest
import torch

from lora_sku.judges import building, classifier, embeddings
from lora_sku.judges.building import build_judge, text_judges
from lora_sku.judges.openai import OpenAIJudge
from lora_sku.judges.refusal import RefusalJudge
from lora_sku.judges.similarity import SimilarityJudge
from lora_sku.recipe_judges import JudgesSection

CPU = torch.device("cpu")
ALL = JudgesSection(
    judges=["openai", "compliance", "refusal", "similarity", "classifier"],
    classifier={"preset": "beaver-dam-7b"},
    openai={"model": "some-model"},
)


def test_compliance_asks_the_base_and_the_others_come_in_the_recipes_order() -> None:
    assert text_judges(ALL) == ["openai", "refusal", "similarity", "classifier"]
    assert text_judges(JudgesSection()) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [("openai", OpenAIJudge), ("refusal", RefusalJudge), ("similarity", SimilarityJudge)],
)
def test_each_name_has_its_judge(name: Any, kind: type) -> None:
    judge = build_judge(name, ALL, CPU)
    assert type(judge) is kind
    assert judge.name == name


def test_models_are_loaded_as_the_recipe_says(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(classifier, "load_classifier", lambda *told: loaded.append(told))
    build_judge("classifier", ALL, CPU)
    monkeypatch.setattr(
        embeddings, "SentenceEncoder", lambda path, **keys: loaded.append((path, keys))
    )
    settings = JudgesSection(similarity={"embedding_model": "a/b", "embedding_revision": "v1"})
    building.build_judge("similarity", settings, CPU)
    assert loaded == [(ALL.classifier, CPU), ("a/b", {"revision": "v1", "device": CPU})]
