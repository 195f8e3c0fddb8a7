"""What one method came to with one seed in the trade-off benchmark."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from benchmarks.tradeoff_scores import Answers, Scores
from lora_sku.errors import UserError


@dataclass(frozen=True)
class Trial:
    """One training of a unit and what the sweep made of it.

    Attributes:
        learning_rate: Of the training.
        train_seconds: All steps.
        answer_tokens: Supervised tokens of all steps.
        failed: Why there is no adapter within the budget; None if there is one.
        strength: Chosen multiple of the method's own delta; None after a failure.
        mu: Chosen, of the projection; None without one.
        validation_nll: Of harmful answers at that choice, nats per token.
        points: All that the sweep measured.
    """

    learning_rate: float
    train_seconds: float
    answer_tokens: int
    failed: str | None = None
    strength: float | None = None
    mu: float | None = None
    validation_nll: float | None = None
    points: Sequence[Mapping[str, float | None]] = ()


@dataclass(frozen=True)
class Unit:
    """One method with one seed.

    Attributes:
        method: Its name.
        seed: Of the adapter and of the draws.
        seconds: All of it.
        trials: One a learning rate.
        chosen: Index of the trial that forgets most on validation; None if all failed.
        scores: The chosen adapter's; None if all failed.
        answers: What it said.
        definition: The method's, as it was; None in reports of before it was kept.
    """

    method: str
    seed: int
    seconds: float
    trials: tuple[Trial, ...]
    chosen: int | None = None
    scores: Scores | None = None
    answers: Answers | None = field(default=None, repr=False)
    definition: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def trial(self) -> Trial:
        """The chosen one, or the last that failed."""
        return self.trials[-1 if self.chosen is None else self.chosen]

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Self:
        """What `as_dict` gave."""
        scores, answers = kept["scores"], kept["answers"]
        return cls(
            **kept
            | {
                "trials": tuple(Trial(**trial) for trial in kept["trials"]),
                "scores": scores and Scores.from_dict(scores),
                "answers": answers and Answers.from_dict(answers),
            }
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def without_answers(self) -> "Unit":
        """For a report: what a model says to harmful prompts is not published."""
        return replace(self, answers=None)

    def refuse_other(self, definition: Mapping[str, Any], where: Path) -> None:
        """Refuse a unit that was computed by what its method was before.

        Args:
            definition: The method's.
            where: Folder that keeps the unit.

        Raises:
            UserError: if the unit's is another one. One that was never kept is taken for the same.
        """
        ours = self.definition
        if ours is None or ours == definition:
            return
        raise UserError(
            f"{self.method} {self.seed} was computed by another definition of this method:"
            f" {', '.join(differing(ours, definition))}",
            where=str(where),
            remedy=f"Compute it again: benchmarks.tradeoff --only {self.method} --force, or name"
            " another --out.",
        )


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The keys that only one of them has, or that have another value there."""
    return sorted(k for k in {*ours, *theirs} if ours.get(k) != theirs.get(k))
