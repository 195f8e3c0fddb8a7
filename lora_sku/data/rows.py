"""From records to rows: one prompt with all its answers, each answer once."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from lora_sku.data.formats import (
    FORMAT_FIELDS,
    FORMATS,
    BadRecordError,
    Pair,
    Side,
    rename_columns,
)
from lora_sku.data.records import BadRecord, Record, read_records
from lora_sku.errors import DataError
from lora_sku.recipe import SourceSection


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and its distinct answers, all stripped, in order of first appearance."""

    prompt: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class LoadedRows:
    """One side's rows and how they came about.

    Attributes:
        rows: One for each prompt.
        skipped: "where: problem" for each record that was left out.
        duplicate_pairs: How often a pair came that was there already.
        records: How many records were read, bad ones included.
    """

    rows: tuple[Row, ...]
    skipped: tuple[str, ...]
    duplicate_pairs: int
    records: int

    @property
    def pairs(self) -> int:
        """Number of distinct (prompt, answer) pairs."""
        return sum(len(row.answers) for row in self.rows)


def normalised(prompt: str) -> str:
    """The prompt without differences of case and white space: what makes two prompts the same."""
    return " ".join(prompt.split()).casefold()


def hash_order(label: str, prompt: str) -> bytes:
    """Sort key that shuffles prompts in a fixed way for each `label`, wherever they stand."""
    return hashlib.sha256(f"{label}\0{normalised(prompt)}".encode()).digest()


def load_rows(section: SourceSection, side: Side, key: str | None = None) -> LoadedRows:
    """Read one data set and group its pairs by prompt.

    Args:
        section: Where the data set is and what shape its records have.
        side: Which answers count, where the format distinguishes.
        key: Where the recipe has the section; None is data.SIDE.

    Raises:
        SourceError: the source does not exist or cannot be reached.
        DataError: a record cannot be used and `on_bad_record` is fail; nothing usable is in it;
            `columns` renames a field that the format does not have.
    """
    key = key or f"data.{side}"
    _check_columns(section, key)
    answers_by_prompt: dict[str, dict[str, None]] = {}
    skipped: list[str] = []
    duplicates = records = 0
    for outcome in _read_pairs(section, side, key):
        records += 1
        if isinstance(outcome, BadRecord):
            if section.on_bad_record == "fail":
                raise DataError(
                    outcome.problem,
                    where=outcome.where,
                    remedy=f"Mend the record, or set {key}.on_bad_record to skip. A column"
                    f" that is called otherwise can be mapped in {key}.columns.",
                )
            skipped.append(f"{outcome.where}: {outcome.problem}")
            continue
        for prompt, answer in outcome:
            answers = answers_by_prompt.setdefault(prompt, {})
            duplicates += answer in answers
            answers[answer] = None
    rows = tuple(Row(prompt, tuple(answers)) for prompt, answers in answers_by_prompt.items())
    if not rows:
        raise _nothing_usable(section, side, key, records, skipped)
    return LoadedRows(_keep(rows, section.max_prompts), tuple(skipped), duplicates, records)


def _check_columns(section: SourceSection, key: str) -> None:
    known = FORMAT_FIELDS[section.format]
    unknown = [name for name in section.columns if name not in known]
    if unknown:
        raise DataError(
            f"the format {section.format} has no field {unknown[0]!r}",
            where=f"{key}.columns",
            remedy=f"Its fields are {', '.join(known)}; write FIELD: COLUMN.",
        )


def _read_pairs(section: SourceSection, side: Side, key: str) -> Iterator[list[Pair] | BadRecord]:
    to_pairs = FORMATS[section.format]
    for record in read_records(section, key):
        if isinstance(record, Record):
            try:
                yield to_pairs(rename_columns(record.fields, section.columns), side)
            except BadRecordError as problem:
                yield BadRecord(record.where, str(problem))
        else:
            yield record


def _nothing_usable(
    section: SourceSection, side: Side, key: str, records: int, skipped: list[str]
) -> DataError:
    if skipped:
        problem = f"all usable records are gone: {len(skipped)} of {records} were skipped"
        remedy = f"The first was {skipped[0]}."
    elif records:
        problem = f"none of its {records} records has an answer for the {side} side"
        remedy = f"Check {key}.format and {key}.split."
    else:
        problem, remedy = "holds no records", f"Check {key}.path."
    return DataError(problem, where=section.path, remedy=remedy)


def _keep(rows: tuple[Row, ...], max_prompts: int | None) -> tuple[Row, ...]:
    if max_prompts is None or len(rows) <= max_prompts:
        return rows
    # A label of its own: with the splits' order this choice would empty one of the splits.
    chosen = sorted(rows, key=lambda row: (hash_order("max_prompts", row.prompt), row.prompt))
    kept = {row.prompt for row in chosen[:max_prompts]}
    return tuple(row for row in rows if row.prompt in kept)
