"""How often each label was given. No label's rate stands without the others'."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from lora_sku.judges.verdicts import LABELS, Label, Verdict
from lora_sku.metrics import wilson_interval


@dataclass(frozen=True)
class Rates:
    """Labels of some completions, counted.

    Attributes:
        counts: How many completions have each label; every label is there.
        complying: How many do what the prompt asks; None if the judge cannot tell of all of them.
    """

    counts: dict[Label, int]
    complying: int | None

    @classmethod
    def of(cls, verdicts: Sequence[Verdict]) -> Self:
        """Count some verdicts of one judge."""
        given = [verdict.label for verdict in verdicts]
        told = [verdict.complies for verdict in verdicts]
        return cls(
            counts={label: given.count(label) for label in LABELS},
            complying=None if None in told else told.count(True),
        )

    @property
    def total(self) -> int:
        """Completions judged."""
        return sum(self.counts.values())

    def rate(self, label: Label) -> float:
        """Share of a label; 0 of none."""
        return self.counts[label] / self.total if self.total else 0.0

    def interval(self, label: Label) -> tuple[float, float]:
        """95 % interval of a label's rate over further prompts like these (Wilson)."""
        return wilson_interval(self.counts[label], self.total)

    def as_dict(self) -> dict[str, Any]:
        """For evaluation.json."""
        return {
            "completions": self.total,
            "counts": dict(self.counts),
            "rates": {label: self.rate(label) for label in LABELS},
            "intervals_95": {label: list(self.interval(label)) for label in LABELS},
            "complying": self.complying,
        }
