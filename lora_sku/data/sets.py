"""All sets, loaded, checked against each other and split; and the check of prompt lengths."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lora_sku.data.encoding import Encoder
from lora_sku.data.rows import LoadedRows, Row, load_rows, normalised
from lora_sku.data.splits import SPLIT_NAMES, Splits, split_by_prompt
from lora_sku.errors import DataError
from lora_sku.recipe import DataSection

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class LongPrompts:
    """Prompts longer than `max_prompt_tokens`, in all sets together."""

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
    """The forget set D_f, the retain set D_n, and the protected sets.

    Attributes:
        forget: D_f's splits.
        retain: D_n's splits; a prompt of several sets stands in the same split in all of them.
        forget_loaded: D_f before the split, with its counts.
        retain_loaded: D_n before the split, with its counts.
        long_prompts: How many prompts of any set were left out or will lose their start.
        fingerprint: sha256 over all rows in all splits, in hex: equal means the same data.
        protect: Name -> further normal prompts, which are not trained on.
        protect_loaded: The same before the split.
    """

    forget: Splits
    retain: Splits
    forget_loaded: LoadedRows
    retain_loaded: LoadedRows
    long_prompts: LongPrompts
    fingerprint: str
    protect: Mapping[str, Splits] = field(default_factory=dict)
    protect_loaded: Mapping[str, LoadedRows] = field(default_factory=dict)

    @property
    def normal(self) -> dict[str, Splits]:
        """All that must not change, by name: the retain set first, then the protected ones."""
        return {"retain": self.retain, **self.protect}


def load_data(section: DataSection, encoder: Encoder | None) -> DataSets:
    """Load all sets, treat their long prompts as the recipe says, and split them by prompt.

    Args:
        section: The recipe's.
        encoder: Measures the prompts; None leaves them all, whatever their length.

    Raises:
        SourceError: a source does not exist or cannot be reached.
        DataError: a set cannot be used, is too small, or holds a pair that the forget set holds
            too.
    """
    loaded = {"forget": load_rows(section.forget, "forget")}
    loaded["retain"] = load_rows(section.retain, "retain")
    for name, source in section.protect.items():
        loaded[_protect_key(name)] = load_rows(source, "retain", f"data.{_protect_key(name)}")
    for key, normal in loaded.items():
        if key != "forget":
            _refuse_common_pairs(loaded["forget"].rows, normal.rows, key)
    kept = {key: _screened(of_set.rows, encoder, section) for key, of_set in loaded.items()}
    splits = _split(section, {key: of_set.rows for key, of_set in kept.items()})
    return DataSets(
        splits["forget"],
        splits["retain"],
        loaded["forget"],
        loaded["retain"],
        LongPrompts(
            dropped=sum(of_set.dropped for of_set in kept.values()),
            truncated=sum(of_set.truncated for of_set in kept.values()),
        ),
        _fingerprint(splits),
        protect={name: splits[_protect_key(name)] for name in section.protect},
        protect_loaded={name: loaded[_protect_key(name)] for name in section.protect},
    )


def _protect_key(name: str) -> str:
    """Where the recipe has a protected set, below data."""
    return f"protect.{name}"


def _split(section: DataSection, rows_of: Mapping[str, Sequence[Row]]) -> dict[str, Splits]:
    """Each set's splits; every set follows those before it."""
    splits: dict[str, Splits] = {}
    for key, rows in rows_of.items():
        try:
            splits[key] = split_by_prompt(
                rows,
                validation_fraction=section.validation_fraction,
                unseen_fraction=section.unseen_fraction,
                seed=section.seed,
                follow=_together(splits.values()),
            )
        except DataError as error:
            raise DataError(error.problem, where=f"data.{key}", remedy=error.remedy) from error
    return splits


def _together(splits: Iterable[Splits]) -> Splits:
    named = [of_set.named() for of_set in splits]
    return Splits(
        **{name: tuple(row for rows in named for row in rows[name]) for name in SPLIT_NAMES}
    )


def _refuse_common_pairs(forget: Sequence[Row], normal: Sequence[Row], key: str) -> None:
    forgotten = {(normalised(row.prompt), answer) for row in forget for answer in row.answers}
    common = [
        row.prompt
        for row in normal
        for answer in row.answers
        if (normalised(row.prompt), answer) in forgotten
    ]
    if common:
        raise DataError(
            f"{len(common)} pairs of prompt and answer stand in the forget set and in the {key}"
            f" set; the first has the prompt {shown(common[0])}",
            where=f"data.{key}",
            remedy="Take them out of one set: one is to go, the other to stay.",
        )


def shown(prompt: str) -> str:
    """The beginning of a prompt on one line, quoted, for messages."""
    line = " ".join(prompt.split())
    return repr(line if len(line) <= _SHOWN_CHARACTERS else line[:_SHOWN_CHARACTERS] + "...")


def fingerprint(data: DataSets) -> str:
    """sha256 over the rows that the sets have now, in hex; `DataSets.fingerprint` is as loaded."""
    protect = {_protect_key(name): splits for name, splits in data.protect.items()}
    return _fingerprint({"forget": data.forget, "retain": data.retain, **protect})


def _fingerprint(splits: Mapping[str, Splits]) -> str:
    content = [
        [key, name, [[row.prompt, row.answers] for row in rows]]
        for key, of_set in splits.items()
        for name, rows in of_set.named().items()
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
