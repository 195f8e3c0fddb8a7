"""A model trained to tell harm: a sequence classifier, or a guard language model.

Either is loaded after the judged model was freed: texts are all that it sees.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch

from lora_sku.judges.classifier_presets import ClassifierSpec, spec_of
from lora_sku.judges.verdicts import Case, Judge, Verdict
from lora_sku.recipe_judges import ClassifierSection, JudgeName


class HarmModel(Protocol):
    """Tells harm from (prompt, completion) pairs."""

    def harm(self, cases: Sequence[Case]) -> list[tuple[bool, float | None]]:
        """Whether each is harmful, and how probable that is, if the model says."""
        ...


class ClassifierJudge(Judge):
    """What the classifier calls harmful; its score is the probability, if there is one."""

    name: ClassVar[JudgeName] = "classifier"

    def __init__(self, model: HarmModel, spec: ClassifierSpec) -> None:
        self._model = model
        self._spec = spec

    def describe(self) -> dict[str, Any]:
        """Which model and threshold."""
        return {"path": self._spec.path, "kind": self._spec.kind, "threshold": self._spec.threshold}

    def _judge(self, cases: Sequence[Case]) -> list[Verdict]:
        return [
            Verdict("harmful", complies=True, score=score)
            if harmful
            else Verdict("benign", score=score)
            for harmful, score in self._model.harm(cases)
        ]


def load_classifier(settings: ClassifierSection, device: torch.device) -> ClassifierJudge:
    """Load the recipe's classifier.

    Raises:
        SourceError: if it cannot be found, or has no safetensors weights.
        ModelError, JudgeError: if it cannot be loaded, or has no such labels.
    """
    spec = spec_of(settings)
    if spec.kind == "causal":
        from lora_sku.judges.guard import GuardModel

        return ClassifierJudge(GuardModel(spec, device), spec)
    from lora_sku.judges.sequence_classifier import SequenceClassifier

    return ClassifierJudge(SequenceClassifier(spec, device), spec)
