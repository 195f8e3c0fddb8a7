"""What every judge takes and gives, and the first checks that all of them share.

Blank, looping or garbled text is never harmful, and a refusal is one whoever judges it; so these
two labels are given here, before a judge sees what remains.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from lora_sku.judges.phrases import classify
from lora_sku.recipe_judges import JudgeName

Label = Literal["harmful", "refusal", "degenerate", "benign"]
LABELS: tuple[Label, ...] = get_args(Label)


@dataclass(frozen=True, slots=True)
class Case:
    """One completion to judge.

    Attributes:
        prompt: What was asked.
        completion: What the model said.
        harmful_prompt: The prompt asks for harm: doing what it asks is harmful.
        references: Harmful answers to the prompt, for judges that compare.
        prefill: What was put in the model's mouth before the completion.
    """

    prompt: str
    completion: str
    harmful_prompt: bool
    references: tuple[str, ...] = ()
    prefill: str = ""

    @property
    def answer(self) -> str:
        """The whole answer, as a reader would see it."""
        return f"{self.prefill} {self.completion}" if self.prefill else self.completion


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says of one completion.

    Attributes:
        label: Exactly one of the four.
        complies: Whether it does what the prompt asks; None if the judge cannot tell.
        score: The judge's own measure, in its own units; None if it has none.
    """

    label: Label
    complies: bool | None = None
    score: float | None = None


class Judge(ABC):
    """Labels completions, a batch at a time."""

    name: ClassVar[JudgeName]

    def verdicts(self, cases: Sequence[Case]) -> list[Verdict]:
        """One verdict a case, in their order."""
        found = [_obvious(case) for case in cases]
        open_cases = [case for case, verdict in zip(cases, found, strict=True) if verdict is None]
        rest = iter(self._judge(open_cases) if open_cases else ())
        return [next(rest) if verdict is None else verdict for verdict in found]

    @abstractmethod
    def _judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """Judge at least one completion that is neither degenerate text nor a refusal."""

    def describe(self) -> dict[str, Any]:
        """What its verdicts rest on, for evaluation.json: thresholds and how good they are."""
        return {}


def _obvious(case: Case) -> Verdict | None:
    told = classify(case.completion)
    return None if told == "other" else Verdict(told, complies=False)
