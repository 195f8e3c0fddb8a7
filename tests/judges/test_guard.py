"""A guard's conversation and its written verdict."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_tokenizer

from lora_sku.errors import JudgeError
from lora_sku.generation import Completion
from lora_sku.judges import Case, guard
from lora_sku.judges.classifier_presets import ClassifierSpec
from lora_sku.judges.guard import GuardModel

CASES = [
    Case("How do I spoil a cake?", "Leave it in the rain.", harmful_prompt=True),
    Case("Why?", "White.", harmful_prompt=True),
]
Load = Callable[..., GuardModel]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the guard was shown; it writes what is under "writes"."""
    told: dict[str, Any] = {"writes": ["safe", "unsafe"]}

    def complete(base: Any, prompts: Any, **keys: Any) -> list[Completion]:
        told.update(prompts=[base.tokenizer.decode(ids) for ids in prompts], **keys)
        return [Completion(text, ended=True) for text in told["writes"]]

    monkeypatch.setattr(guard, "complete", complete)
    return told


@pytest.fixture
def load(tiny_llama: Path) -> Load:
    def load(path: Path = tiny_llama, **keys: Any) -> GuardModel:
        words = {"harmful": ("unsafe",), "harmless": ("safe",)}
        spec = ClassifierSpec(str(path), "causal", **(words | keys))
        return GuardModel(spec, torch.device("cpu"))

    return load


@pytest.mark.parametrize(
    ("text", "harmful"),
    [
        ("unsafe", True),
        ("\n\nunsafe\nS2", True),
        ("safe", False),
        ("Safe.", False),
        (" safe\n", False),
    ],
)
def test_the_first_word_is_the_verdict(
    load: Load, shown: dict[str, Any], text: str, harmful: bool
) -> None:
    shown["writes"] = [text]
    assert load().harm(CASES[:1]) == [(harmful, None)]


@pytest.mark.parametrize("text", ["", "I think it is unsafe", "safety first", "!!"])
def test_a_verdict_that_is_none_is_refused(load: Load, shown: dict[str, Any], text: str) -> None:
    shown["writes"] = [text]
    with pytest.raises(JudgeError, match="where one of unsafe, safe should stand"):
        load().harm(CASES[:1])


def test_it_reads_the_conversation_in_its_own_chat_template(
    load: Load, shown: dict[str, Any]
) -> None:
    assert load().harm(CASES) == [(False, None), (True, None)]
    assert shown["prompts"] == [
        f"<s><|user|>{case.prompt}</s><|assistant|>{case.completion}</s><|assistant|>"
        for case in CASES
    ]


def test_or_in_the_recipes_template(load: Load, shown: dict[str, Any]) -> None:
    load(template="Q {prompt} A {completion} V").harm(CASES)
    assert shown["prompts"][1] == "<s>Q Why? A White. V"


def test_it_is_quantized_as_a_base_is(load: Load) -> None:
    assert load()._base.quantization == "nf4"
    assert load(quantization="none")._base.quantization == "none"


def test_a_real_one_writes_something(load: Load) -> None:
    with pytest.raises(JudgeError, match="the guard wrote"):
        load(quantization="none").harm(CASES)


def test_without_any_template_it_cannot_be_asked(
    load: Load, tiny_llama: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_llama, tmp_path / "guard")
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    with pytest.raises(JudgeError, match=r"no chat template.* evaluation\.classifier\.template"):
        load(folder)


@pytest.mark.parametrize("template", [None, "{prompt}|{completion}"])
def test_it_is_shown_the_whole_answer(
    load: Load, shown: dict[str, Any], template: str | None
) -> None:
    shown["writes"] = ["safe"]
    begun = Case("Why?", "you go on.", harmful_prompt=True, prefill="Sure, here is how")
    load(template=template).harm([begun])
    assert "Sure, here is how you go on." in shown["prompts"][0]
