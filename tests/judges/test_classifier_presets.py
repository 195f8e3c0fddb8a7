"""Presets, and the recipe's keys that go before them."""

import pytest

from lora_sku.judges import Case
from lora_sku.judges.classifier_presets import PRESETS, ClassifierSpec, fill, spec_of
from lora_sku.recipe_judges import ClassifierSection


def test_a_preset_is_taken_as_it_is() -> None:
    assert spec_of(ClassifierSection(preset="beaver-dam-7b")) == PRESETS["beaver-dam-7b"]


def test_the_recipes_keys_go_before_the_presets() -> None:
    spec = spec_of(ClassifierSection(preset="llama-guard-3-8b", path="my/copy", threshold=0.7))
    assert (spec.path, spec.threshold) == ("my/copy", 0.7)
    assert (spec.kind, spec.harmful, spec.harmless) == ("causal", ("unsafe",), ("safe",))


def test_without_a_preset_the_recipe_says_all() -> None:
    spec = spec_of(ClassifierSection(path="a/b", kind="sequence-classification", harmful=["toxic"]))
    assert spec == ClassifierSpec("a/b", "sequence-classification", harmful=("toxic",))


def test_a_guard_knows_both_verdicts_and_a_text_template_holds_both_texts() -> None:
    for spec in PRESETS.values():
        assert (spec.kind == "causal") == bool(spec.harmful and spec.harmless)
        if spec.template is not None:
            assert "{prompt}" in spec.template
            assert "{completion}" in spec.template


def test_a_template_holds_the_whole_answer() -> None:
    case = Case("Why?", "you go on.", harmful_prompt=True, prefill="Sure, here is how")
    assert fill("{prompt}|{completion}", case) == "Why?|Sure, here is how you go on."


@pytest.mark.parametrize("prompt", ["Why?", "Fill {completion} and {prompt}", "{0} \\1"])
def test_texts_stand_in_the_template_as_they_are(prompt: str) -> None:
    case = Case(prompt, "{prompt}!", harmful_prompt=True)
    assert fill("Q: {prompt} A: {completion}", case) == f"Q: {prompt} A: {{prompt}}!"
