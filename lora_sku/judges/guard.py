"""A guard language model that reads a conversation and writes its verdict."""

import re
from collections.abc import Sequence
from typing import Any

import torch

from lora_sku.errors import JudgeError
from lora_sku.generation import complete
from lora_sku.judges.classifier_presets import ClassifierSpec, fill
from lora_sku.judges.verdicts import Case
from lora_sku.model import load_base
from lora_sku.recipe import BaseModelSection

_BATCH = 8
# A verdict is a word; some guards write a line break first, and the categories after it.
_VERDICT_TOKENS = 8
_SHOWN_CHARACTERS = 40


class GuardModel:
    """Loaded as a base is: quantized, frozen, safetensors only, no remote code.

    Args:
        spec: Which model and which of its words mean what.
        device: Where it runs.

    Raises:
        SourceError, ModelError: as `load_base`.
        JudgeError: if nothing says how to show it a conversation.
    """

    def __init__(self, spec: ClassifierSpec, device: torch.device) -> None:
        self._spec = spec
        self._base = load_base(
            BaseModelSection(
                path=spec.path,
                revision=spec.revision,
                quantization=spec.quantization,
                device="cuda" if device.type == "cuda" else "cpu",
            )
        )
        if spec.template is None and self._base.tokenizer.chat_template is None:
            raise JudgeError(
                "this guard's tokenizer has no chat template",
                where=spec.path,
                remedy="Set evaluation.classifier.template to the text that it was trained with,"
                " with {prompt} and {completion} in it.",
            )

    def harm(self, cases: Sequence[Case]) -> list[tuple[bool, float | None]]:
        """Its verdict on each completion, as an answer to its prompt; without a probability.

        Raises:
            JudgeError: if it writes something else than its verdicts.
        """
        written = complete(
            self._base,
            [self._ids(case) for case in cases],
            max_new_tokens=_VERDICT_TOKENS,
            batch_size=_BATCH,
        )
        return [(self._means_harm(found.text), None) for found in written]

    def _ids(self, case: Case) -> list[int]:
        tokenizer = self._base.tokenizer
        if self._spec.template is not None:
            return list(tokenizer(fill(self._spec.template, case))["input_ids"])
        encoding: Any = tokenizer.apply_chat_template(
            [
                {"role": "user", "content": case.prompt},
                {"role": "assistant", "content": case.answer},
            ],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )
        return list(encoding["input_ids"])

    def _means_harm(self, text: str) -> bool:
        first = re.match(r"\W*(\w*)", text)
        word = first[1].casefold() if first else ""
        if word in {harmful.casefold() for harmful in self._spec.harmful}:
            return True
        if word in {harmless.casefold() for harmless in self._spec.harmless}:
            return False
        expected = ", ".join((*self._spec.harmful, *self._spec.harmless))
        # Neither verdict may be guessed: a guess of harmless would hide what it could not read.
        raise JudgeError(
            f"the guard wrote {text[:_SHOWN_CHARACTERS]!r} where one of {expected} should stand",
            where=self._spec.path,
            remedy="Check evaluation.classifier: its template, and which words mean harmful and"
            " harmless.",
        )
