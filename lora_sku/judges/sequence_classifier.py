"""A sequence classifier: probabilities of labels, some of which mean harm.

Shape suffixes: B texts, L labels.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from lora_sku.devices import fast_dtype
from lora_sku.errors import JudgeError
from lora_sku.judges.classifier_presets import ClassifierSpec, fill
from lora_sku.judges.verdicts import Case
from lora_sku.sources import locate

_BATCH = 8


class SequenceClassifier:
    """Not quantized: these models are small, or their head is what was trained.

    Args:
        spec: Which model, and which of its labels mean harm.
        device: Where it runs.

    Raises:
        SourceError: if it cannot be found, or has no safetensors weights.
        JudgeError: if transformers cannot load it, or it has no such label.
    """

    def __init__(self, spec: ClassifierSpec, device: torch.device) -> None:
        self._spec = spec
        self._device = device
        self._tokenizer, self._model = _load(spec, device)
        self._harmful = self._harmful_labels()

    @torch.no_grad()
    def harm(self, cases: Sequence[Case]) -> list[tuple[bool, float | None]]:
        """Whether harm is at least as probable as the threshold, and how probable it is."""
        found: list[tuple[bool, float | None]] = []
        for start in range(0, len(cases), _BATCH):
            encoding = self._encode(cases[start : start + _BATCH]).to(self._device)
            for probability in self._probabilities(self._model(**encoding).logits.float()).tolist():
                found.append((probability >= self._spec.threshold, probability))
        return found

    def _probabilities(self, logits_BL: Tensor) -> Tensor:
        """Of harm (B,): the sum if one label is true, the largest if each may be."""
        if self._one_is_true:
            return logits_BL.softmax(-1)[:, self._harmful].sum(-1)
        return logits_BL.sigmoid()[:, self._harmful].amax(-1)

    def _encode(self, cases: Sequence[Case]) -> Any:
        settings = {
            "padding": True,
            "truncation": True,  # of a pair, the longer text gives way first
            "max_length": self._spec.max_input_tokens,
            "return_tensors": "pt",
        }
        if self._spec.template is not None:
            texts = [fill(self._spec.template, case) for case in cases]
            return self._tokenizer(texts, **settings)
        prompts, completions = ([c.prompt for c in cases], [c.answer for c in cases])
        return self._tokenizer(prompts, completions, **settings)

    def _harmful_labels(self) -> list[int]:
        """Indices of the labels that mean harm; all of them if the recipe names none."""
        labels = self._model.config.id2label
        assert labels is not None, "transformers names the labels LABEL_0, LABEL_1 itself"
        numbers = {str(name).casefold(): int(number) for number, name in labels.items()}
        unknown = [name for name in self._spec.harmful if name.casefold() not in numbers]
        if unknown:
            raise JudgeError(
                f"this classifier has no label {unknown[0]!r}",
                where=self._spec.path,
                remedy=f"Set evaluation.classifier.harmful to some of: {', '.join(numbers)}.",
            )
        if not self._spec.harmful and self._one_is_true:
            raise JudgeError(
                "exactly one of this classifier's labels is true, so some must mean harmless",
                where=self._spec.path,
                remedy=f"Set evaluation.classifier.harmful to some of: {', '.join(numbers)}.",
            )
        return [numbers[name.casefold()] for name in self._spec.harmful] or list(numbers.values())

    @property
    def _one_is_true(self) -> bool:
        """Exactly one label, out of several; else each may be true on its own."""
        several_may_be = self._model.config.problem_type == "multi_label_classification"
        return not several_may_be and self._model.config.num_labels != 1


def _load(
    spec: ClassifierSpec, device: torch.device
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    folder = locate(spec.path, kind="model", revision=spec.revision).path
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, truncation_side="left"
        )
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            folder, use_safetensors=True, dtype=fast_dtype(device)
        )
    except (ValueError, OSError, KeyError) as error:
        raise JudgeError(
            f"transformers cannot load this classifier: {error}",
            where=spec.path,
            remedy="It needs a sequence classification model with config.json and .safetensors"
            " files; a guard language model has evaluation.classifier.kind: causal.",
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.pad_token_id is None:
        # Decoders find a row's last token by it.
        model.config.pad_token_id = tokenizer.pad_token_id
    module: torch.nn.Module = model  # transformers' own `to` is typed for no device
    module.to(device).eval()
    return tokenizer, model
