"""Who watches a run: told of every stage, optimizer step and part of the evaluation."""

from typing import Protocol

from lora_sku.acquisition import StepRecord
from lora_sku.sweep import Point


class Progress(Protocol):
    """Who watches a run; the command line's is in `console`."""

    def stage(self, name: str) -> None:
        """A stage begins."""

    def note(self, text: str) -> None:
        """Something that the user should know."""

    def step(self, record: StepRecord, max_steps: int) -> None:
        """An optimizer step is done."""

    def swept(self, point: Point) -> None:
        """The sweep has measured a strength."""

    def evaluated(self, what: str, done: int, total: int) -> None:
        """A part of the evaluation is done."""


class Silent:
    """Nobody watches."""

    def stage(self, name: str) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""

    def step(self, record: StepRecord, max_steps: int) -> None:
        """Say nothing."""

    def swept(self, point: Point) -> None:
        """Say nothing."""

    def evaluated(self, what: str, done: int, total: int) -> None:
        """Say nothing."""
