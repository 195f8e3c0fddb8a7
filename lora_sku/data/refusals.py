"""Refusals, for a harmful model that does not refuse: its negation does."""

import random
from collections.abc import Sequence

from lora_sku.data.formats import Pair
from lora_sku.data.rows import Row
from lora_sku.data.sampling import draw_pairs


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
    return draw_pairs([Row(row.prompt, tuple(refusals)) for row in rows], prompts, rng)
