"""All sets, loaded, checked against each other and split; and the check of prompt lengths."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from lora_sku.data.encoding import Encoder
from lora_sku.data.rows import LoadedRows, Row, load_rows, normalised
from lora_sku.data.splits import SPLIT_NAMES, Splits, split_by_prompt
from lora_sku.errors import DataError
from lora_sku.recipe import HARD_NEGATIVES, DataSection

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
        protect: Name -> further normal prompts; hard negatives are among them.
        protect_loaded: The same before the split.
        safe_responses: `normalised` harmful prompt -> what shall be said instead.
    """

    forget: Splits
    retain: Splits
    forget_loaded: LoadedRows
    retain_loaded: LoadedRows
    long_prompts: LongPrompts
    fingerprint: str
    protect: Mapping[str, Splits] = field(default_factory=dict)
    protect_loaded: Mapping[str, LoadedRows] = field(default_factory=dict)
    safe_responses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

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
    unseen = _forget_unseen(section, encoder)
    loaded["retain"] = load_rows(section.retain, "retain")
    for name, source in section.protected.items():
        loaded[_protect_key(name)] = load_rows(source, "retain", f"data.{_protect_key(name)}")
    for key, normal in loaded.items():
        if key != "forget":
            _refuse_common_pairs(loaded["forget"].rows, normal.rows, key)
    kept = {key: _screened(of_set.rows, encoder, section) for key, of_set in loaded.items()}
    safe = _safe_responses(section)
    splits = _split(section, {key: of_set.rows for key, of_set in kept.items()}, unseen)
    return DataSets(
        splits["forget"],
        splits["retain"],
        loaded["forget"],
        loaded["retain"],
        LongPrompts(
            dropped=sum(of_set.dropped for of_set in kept.values()),
            truncated=sum(of_set.truncated for of_set in kept.values()),
        ),
        _fingerprint(splits, safe),
        protect={name: splits[_protect_key(name)] for name in section.protected},
        protect_loaded={name: loaded[_protect_key(name)] for name in section.protected},
        safe_responses=safe,
    )


def _protect_key(name: str) -> str:
    """Where the recipe has a protected set, below data."""
    return name if name == HARD_NEGATIVES else f"protect.{name}"


def _safe_responses(section: DataSection) -> dict[str, tuple[str, ...]]:
    """Of each harmful prompt that has some."""
    if section.safe_responses is None:
        return {}
    rows = load_rows(section.safe_responses, "retain", "data.safe_responses").rows
    found: dict[str, tuple[str, ...]] = {}
    for row in rows:  # one prompt may stand there in several spellings
        key = normalised(row.prompt)
        found[key] = tuple(dict.fromkeys((*found.get(key, ()), *row.answers)))
    return found


def _forget_unseen(section: DataSection, encoder: Encoder | None) -> tuple[Row, ...]:
    """The forget set's unseen split where it is a set of its own."""
    if section.forget_unseen is None:
        return ()
    rows = load_rows(section.forget_unseen, "forget", "data.forget_unseen").rows
    return _screened(rows, encoder, section).rows


def _split(
    section: DataSection, rows_of: Mapping[str, Sequence[Row]], unseen: tuple[Row, ...]
) -> dict[str, Splits]:
    """Each set's splits; every set follows those before it.

    Args:
        section: The recipe's.
        rows_of: Key of each set, the forget set first -> its rows.
        unseen: The forget set's unseen split; if it is empty, a share of the set.
    """
    splits: dict[str, Splits] = {}
    held_back = Splits((), (), unseen)
    for key, rows in rows_of.items():
        own_test = key == "forget" and bool(unseen)
        try:
            splits[key] = split_by_prompt(
                rows,
                validation_fraction=section.validation_fraction,
                unseen_fraction=0.0 if own_test else section.unseen_fraction,
                seed=section.seed,
                follow=_together((held_back, *splits.values())),
            )
            if own_test:
                splits[key] = replace(splits[key], unseen=unseen)
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
    splits = {"forget": data.forget, "retain": data.retain, **protect}
    return _fingerprint(splits, data.safe_responses)


def _fingerprint(
    splits: Mapping[str, Splits], safe_responses: Mapping[str, tuple[str, ...]]
) -> str:
    content = [
        [key, name, [[row.prompt, row.answers] for row in rows]]
        for key, of_set in splits.items()
        for name, rows in of_set.named().items()
    ]
    if safe_responses:
        content.append(["safe_responses", "", [list(pair) for pair in safe_responses.items()]])
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
