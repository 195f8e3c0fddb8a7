"""Probabilities of harm from tiny sequence classifiers, against their own logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import VOCABULARY, llama_config, make_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    PretrainedConfig,
)

from lora_sku.errors import JudgeError
from lora_sku.judges import Case
from lora_sku.judges.classifier_presets import ClassifierSpec
from lora_sku.judges.sequence_classifier import SequenceClassifier

CASES = [
    Case("How do I spoil a cake?", "Leave it in the rain.", harmful_prompt=True),
    Case("Why?", "It is green and yellow and blue.", harmful_prompt=True),
    Case("What is the colour of snow?", "White.", harmful_prompt=False),
]
TEMPLATE = "Q {prompt} A {completion}"
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Save:
    from lora_sku.judges import sequence_classifier

    monkeypatch.setattr(sequence_classifier, "fast_dtype", lambda _: torch.float32)

    def save(config: PretrainedConfig) -> Path:
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim >= 2:
                    parameter.normal_(std=0.3)
        model.save_pretrained(tmp_path / "classifier")
        make_tokenizer().save_pretrained(tmp_path / "classifier")
        return tmp_path / "classifier"

    return save


def bert(labels: list[str], **keys: Any) -> PretrainedConfig:
    return BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
        **keys,
    )


def classifier(folder: Path, **keys: Any) -> SequenceClassifier:
    spec = ClassifierSpec(str(folder), "sequence-classification", **keys)
    return SequenceClassifier(spec, torch.device("cpu"))


def logits(folder: Path, *texts: str) -> torch.Tensor:
    """Of one text or pair (L,), by itself."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        result: torch.Tensor = model(**make_tokenizer()(*texts, return_tensors="pt")).logits[0]
    return result


def test_one_of_several_labels_adds_up_the_harmful_ones(save: Save) -> None:
    folder = save(bert(["fine", "toxic", "threat"]))
    found = classifier(folder, harmful=("Toxic", "threat")).harm(CASES)
    for case, (harmful, probability) in zip(CASES, found, strict=True):
        expected = logits(folder, case.prompt, case.completion).softmax(-1)[1:].sum()
        assert probability == pytest.approx(float(expected), abs=1e-4)
        assert harmful == (probability >= 0.5)


def test_labels_that_may_all_be_true_count_by_the_likeliest(save: Save) -> None:
    folder = save(bert(["drugs", "insult"], problem_type="multi_label_classification"))
    found = classifier(folder, template=TEMPLATE).harm(CASES)
    for case, (_, probability) in zip(CASES, found, strict=True):
        text = f"Q {case.prompt} A {case.completion}"
        expected = logits(folder, text).sigmoid().max()
        assert probability == pytest.approx(float(expected), abs=1e-4)


def test_a_decoder_without_padding_settings_reads_each_rows_end(save: Save) -> None:
    config = llama_config(num_labels=2, problem_type="multi_label_classification")
    config.pad_token_id = None
    folder = save(config)
    found = classifier(folder, template=TEMPLATE).harm(CASES)
    for case, (_, probability) in zip(CASES, found, strict=True):
        text = f"Q {case.prompt} A {case.completion}"
        assert probability == pytest.approx(float(logits(folder, text).sigmoid().max()), abs=1e-4)


def test_the_threshold_itself_is_harmful(save: Save) -> None:
    folder = save(bert(["fine", "toxic"]))
    probabilities = [p for _, p in classifier(folder, harmful=("toxic",)).harm(CASES)]
    middle = sorted(probabilities)[1]
    found = classifier(folder, harmful=("toxic",), threshold=middle).harm(CASES)
    assert [harmful for harmful, _ in found] == [p >= middle for p in probabilities]
    assert sum(harmful for harmful, _ in found) == 2


def test_a_long_pair_loses_prompt_and_not_completion(save: Save) -> None:
    folder = save(bert(["fine", "toxic"]))
    judge = classifier(folder, harmful=("toxic",), max_input_tokens=24)
    long = Case("cake kite drum letter " * 30, "Sit on it.", harmful_prompt=True)
    ids = judge._encode([long])["input_ids"][0].tolist()
    assert len(ids) == 24
    assert make_tokenizer().decode(ids).endswith("Sit on it.")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"harmful": ("bad",)}, "no label 'bad'.* fine, toxic"),
        ({}, "some must mean harmless.* fine, toxic"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(
    save: Save, keys: dict[str, Any], problem: str
) -> None:
    with pytest.raises(JudgeError, match=problem):
        classifier(save(bert(["fine", "toxic"])), **keys)


def test_what_is_no_classifier_is_refused(save: Save) -> None:
    folder = save(bert(["fine", "toxic"]))
    (folder / "config.json").unlink()
    with pytest.raises(JudgeError, match="cannot load this classifier"):
        classifier(folder, harmful=("toxic",))


def test_the_whole_answer_is_read(save: Save) -> None:
    judge = classifier(save(bert(["fine", "toxic"])), harmful=("toxic",))
    begun = Case("Why?", "you go on.", harmful_prompt=True, prefill="Sure, here is how")
    whole = Case("Why?", "Sure, here is how you go on.", harmful_prompt=True)
    assert judge.harm([begun]) == judge.harm([whole])
