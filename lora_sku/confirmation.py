"""Refusals and broken text counted in what a model really says, at one strength.

The sweep reads refusals off the safe responses alone. A model can refuse in other words, or
stammer; both show in a few tokens of greedy text. theta_o is asked only where the adapter refused
or stammered, for what it does itself is no loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lora_sku.data import Encoder, Row
from lora_sku.generation import generate
from lora_sku.judges import classify
from lora_sku.model import AdaptedModel
from lora_sku.sweep import Point

NEW_TOKENS = 16
"""A refusal shows in its first words."""


class Confirmation:
    """Counts on the rows that a sweep scored.

    Args:
        model: In evaluation mode, with the adapter as it is to be counted.
        encoder: Tokenizes.
        forget: Harmful prompts.
        normal: Name -> prompts of each normal set.
        batch_size: Prompts answered at once.
    """

    def __init__(
        self,
        model: AdaptedModel,
        encoder: Encoder,
        forget: Sequence[Row],
        normal: Mapping[str, Sequence[Row]],
        *,
        batch_size: int,
    ) -> None:
        self._model = model
        self._encoder = encoder
        self._forget = forget
        self._normal = normal
        self._batch_size = batch_size

    def __call__(self, point: Point) -> Point:
        """The point with refused or broken answers counted in generations."""
        costs = tuple(
            replace(cost, refused=self._newly(self._normal[cost.name])) for cost in point.costs
        )
        return replace(point, refused=self._newly(self._forget), costs=costs)

    def _newly(self, rows: Sequence[Row]) -> int:
        """Prompts that are refused or answered with broken text, and were not by theta_o."""
        asked = zip(rows, self._answered(rows), strict=True)
        now = [row for row, answered in asked if not answered]
        if not now:
            return 0
        with self._model.reference_mode():
            return sum(self._answered(now))

    def _answered(self, rows: Sequence[Row]) -> list[bool]:
        completions = generate(
            self._model,
            [self._encoder.prompt_ids(row.prompt)[0] for row in rows],
            max_new_tokens=NEW_TOKENS,
            batch_size=self._batch_size,
        )
        return [classify(completion) == "other" for completion in completions]
