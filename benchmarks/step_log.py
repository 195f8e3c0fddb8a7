"""What the steps of a training took, on disk, so that a killed training goes on with it."""

import json
from pathlib import Path

from lora_sku.acquisition import StepRecord


class StepLog:
    """What the steps of a training took, kept beside its checkpoints.

    Args:
        file: A line for each.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._steps: list[tuple[float, int]] = []

    def keep(self, steps: int) -> None:
        """Take up the first steps of a killed training; later ones come again."""
        if steps:
            lines = self.file.read_text(encoding="utf-8").splitlines()[:steps]
            self._steps = [tuple(json.loads(line)) for line in lines]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text("".join(map(_line, self._steps)), encoding="utf-8")

    def add(self, record: StepRecord) -> None:
        """Called after every step."""
        self._steps.append((record.seconds, record.answer_tokens))
        with self.file.open("a", encoding="utf-8") as file:
            file.write(_line(self._steps[-1]))

    def whole(self, seconds: float, answer_tokens: int) -> None:
        """What took one step alone; not written, for it is not gone on with."""
        self._steps = [(seconds, answer_tokens)]

    def totals(self) -> tuple[float, int]:
        """Seconds and supervised tokens."""
        return sum(s for s, _ in self._steps), sum(tokens for _, tokens in self._steps)


def _line(step: tuple[float, int]) -> str:
    return json.dumps(step) + "\n"
