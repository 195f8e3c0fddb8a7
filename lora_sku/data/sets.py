"""Both sets, loaded, checked against each other and split; and the check of prompt lengths."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lora_sku.data.encoding import Encoder
from lora_sku.data.rows import LoadedRows, Row, load_rows, normalised
from lora_sku.data.splits import Splits, split_by_prompt
from lora_sku.errors import DataError
from lora_sku.recipe import DataSection

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class LongPrompts:
    """Prompts longer than `max_prompt_tokens`, in both sets together."""

    dropped: int
    truncated: int


@dataclass(frozen=True)
class Screened:
    """Rows after the check of their prompts' lengths.

    Attributes:
        rows: Those to use.
        dropped: How many rows were left out because their prompt is too long.
        truncated: How many rows will lose the start of their prompt.
    """

    rows: tuple[Row, ...]
    dropped: int
    truncated: int


@dataclass(frozen=True)
class DataSets:
    """The forget set D_f and the retain set D_n.

    Attributes:
        forget: D_f's splits.
        retain: D_n's splits; a prompt of both sets stands in the same split in both.
        forget_loaded: D_f before the split, with its counts.
        retain_loaded: D_n before the split, with its counts.
        long_prompts: How many prompts of either set were left out or will lose their start.
        fingerprint: sha256 over all rows in all splits, in hex: equal means the same data.
    """

    forget: Splits
    retain: Splits
    forget_loaded: LoadedRows
    retain_loaded: LoadedRows
    long_prompts: LongPrompts
    fingerprint: str


def load_data(section: DataSection, encoder: Encoder | None) -> DataSets:
    """Load both sets, treat their long prompts as the recipe says, and split them by prompt.

    Args:
        section: The recipe's.
        encoder: Measures the prompts; None leaves them all, whatever their length.

    Raises:
        SourceError: a source does not exist or cannot be reached.
        DataError: a set cannot be used, is too small, or holds a pair that the other holds too.
    """
    forget_loaded = load_rows(section.forget, "forget")
    retain_loaded = load_rows(section.retain, "retain")
    _refuse_common_pairs(forget_loaded.rows, retain_loaded.rows)
    kept_forget = _screened(forget_loaded.rows, encoder, section)
    kept_retain = _screened(retain_loaded.rows, encoder, section)
    forget, retain = _split(section, kept_forget.rows, kept_retain.rows)
    return DataSets(
        forget,
        retain,
        forget_loaded,
        retain_loaded,
        LongPrompts(
            dropped=kept_forget.dropped + kept_retain.dropped,
            truncated=kept_forget.truncated + kept_retain.truncated,
        ),
        _fingerprint(forget, retain),
    )


def _split(
    section: DataSection, forget: Sequence[Row], retain: Sequence[Row]
) -> tuple[Splits, Splits]:
    def cut(rows: Sequence[Row], where: str, follow: Splits | None) -> Splits:
        try:
            return split_by_prompt(
                rows,
                validation_fraction=section.validation_fraction,
                unseen_fraction=section.unseen_fraction,
                seed=section.seed,
                follow=follow,
            )
        except DataError as error:
            raise DataError(error.problem, where=where, remedy=error.remedy) from error

    forget_splits = cut(forget, "data.forget", None)
    return forget_splits, cut(retain, "data.retain", forget_splits)


def _refuse_common_pairs(forget: Sequence[Row], retain: Sequence[Row]) -> None:
    forgotten = {(normalised(row.prompt), answer) for row in forget for answer in row.answers}
    common = [
        row.prompt
        for row in retain
        for answer in row.answers
        if (normalised(row.prompt), answer) in forgotten
    ]
    if common:
        raise DataError(
            f"{len(common)} pairs of prompt and answer stand in the forget set and in the retain"
            f" set; the first has the prompt {shown(common[0])}",
            where="data.retain",
            remedy="Take them out of one set: the losses would pull in opposite directions.",
        )


def shown(prompt: str) -> str:
    """The beginning of a prompt on one line, quoted, for messages."""
    line = " ".join(prompt.split())
    return repr(line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS] + "...")


def _fingerprint(forget: Splits, retain: Splits) -> str:
    content = [
        [side, name, [[row.prompt, row.answers] for row in rows]]
        for side, splits in (("forget", forget), ("retain", retain))
        for name, rows in splits.named().items()
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def screen(
    rows: Sequence[Row], encoder: Encoder, on_long_prompt: Literal["fail", "truncate", "skip"]
) -> Screened:
    """Find the prompts longer than `max_prompt_tokens` and treat them as the recipe says.

    Raises:
        DataError: a prompt is too long and `on_long_prompt` is fail, or no row is left.
    """
    lengths = [encoder.prompt_length(row.prompt) for row in rows]
    long = [i for i, length in enumerate(lengths) if length > encoder.max_prompt_tokens]
    if on_long_prompt == "truncate" or not long:
        return Screened(tuple(rows), dropped=0, truncated=len(long))
    kept = tuple(
        row
        for row, length in zip(rows, lengths, strict=True)
        if length <= encoder.max_prompt_tokens
    )
    if on_long_prompt == "skip" and kept:
        return Screened(kept, dropped=len(long), truncated=0)
    raise DataError(
        f"{len(long)} of {len(rows)} prompts are longer than {encoder.max_prompt_tokens} tokens;"
        f" the first has {lengths[long[0]]} and begins {shown(rows[long[0]].prompt)}",
        where="data.max_prompt_tokens",
        remedy=f"Raise it (the longest has {max(lengths)}), or set data.on_long_prompt to"
        " truncate or skip.",
    )


def _screened(rows: Sequence[Row], encoder: Encoder | None, section: DataSection) -> Screened:
    if encoder is None:
        return Screened(tuple(rows), dropped=0, truncated=0)
    return screen(rows, encoder, section.on_long_prompt)
