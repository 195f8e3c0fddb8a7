"""Prompts for the evaluation alone: no split knows them."""

from lora_sku.data.encoding import Encoder
from lora_sku.data.formats import Side
from lora_sku.data.rows import Row, load_rows, normalised
from lora_sku.data.sets import DataSets
from lora_sku.errors import DataError
from lora_sku.recipe import SourceSection


def load_further(
    section: SourceSection, side: Side, key: str, data: DataSets, encoder: Encoder | None
) -> tuple[Row, ...]:
    """Read prompts without those that are to be forgotten or were looked at before.

    Left out is what stands in any split of the forget set, and what stands in a train or
    validation split of a normal set: nothing may have been learned or chosen on these prompts. So
    are those longer than `max_prompt_tokens`, for half a prompt may sound like anything.

    Args:
        section: Where they are.
        side: Which answers count, where the format distinguishes.
        key: Where the recipe has the section.
        data: All other sets.
        encoder: Measures the prompts; None leaves them all, whatever their length.

    Raises:
        SourceError: the source does not exist or cannot be reached.
        DataError: the set cannot be used, or none of its prompts is left.
    """
    rows = load_rows(section, side, key).rows
    known = {normalised(row.prompt) for rows in data.forget.named().values() for row in rows}
    for splits in data.normal.values():
        known |= {normalised(row.prompt) for row in (*splits.train, *splits.validation)}
    new = [row for row in rows if normalised(row.prompt) not in known]
    left = tuple(row for row in new if encoder is None or _fits(row, encoder))
    if not left:
        raise DataError(
            f"none of its {len(rows)} prompts can be asked: {len(rows) - len(new)} stand in the"
            f" forget set or in what a normal set gives to training and validation, and {len(new)}"
            " are longer than data.max_prompt_tokens",
            where=key,
            remedy="Name another set, or set it to null.",
        )
    return left


def _fits(row: Row, encoder: Encoder) -> bool:
    return encoder.prompt_length(row.prompt) <= encoder.max_prompt_tokens
