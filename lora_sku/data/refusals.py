"""Refusals, for a harmful model that does not refuse: its negation does."""

import random
from collections.abc import Sequence

from lora_sku.data.formats import Pair
from lora_sku.data.rows import Row


def draw_refused(
    rows: Sequence[Row], refusals: Sequence[str], prompts: int, rng: random.Random
) -> list[Pair]:
    """Some prompts, each with one of the refusals in the place of its answers.

    Args:
        rows: Prompts, harmful or normal.
        refusals: At least one.
        prompts: At most so many.
        rng: Decides which prompts, and which refusal each one gets.
    """
    chosen = rng.sample(list(rows), min(prompts, len(rows)))
    return [(row.prompt, rng.choice(refusals)) for row in chosen]
