"""From a data set's section to its records, one by one, each with its place.

Files are read directly, so that a fault can be shown with its exact line; folders and hub data sets
go through `datasets`. A record that cannot even be parsed comes out as a `BadRecord`, so that the
reader can go on behind it.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from lora_sku.errors import DataError, at_key
from lora_sku.recipe import SourceSection
from lora_sku.sources import locate

DEFAULT_SPLIT = "train"


@dataclass(frozen=True, slots=True)
class Record:
    """One record as the source holds it.

    Attributes:
        fields: Column name -> value.
        where: The place, for messages: `file.jsonl:12`, `file.parquet row 3`.
    """

    fields: Mapping[str, Any]
    where: str


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that could not be parsed; `problem` never quotes its content."""

    where: str
    problem: str


RecordStream = Iterator[Record | BadRecord]


def read_records(section: SourceSection, key: str) -> RecordStream:
    """Read a data set record by record.

    Args:
        section: Where it is.
        key: Where the recipe has the section.

    Yields:
        A `Record`, or a `BadRecord` where parsing failed; both in the order of the source.

    Raises:
        SourceError: the source does not exist or cannot be reached.
        DataError: it is no data set, or has no such configuration or split.
    """
    with at_key(f"{key}.path"):
        located = locate(section.path, kind="dataset", revision=section.revision)
    if located.path.is_dir():
        yield from _read_folder(located.path, section)
        return
    suffix = located.path.suffix.lower()
    if suffix not in READERS:
        raise DataError(
            f"a data set file must end in {', '.join(READERS)}, not {suffix or 'nothing'}",
            where=section.path,
            remedy="Convert it: .jsonl holds one JSON object a line.",
        )
    if section.name is not None or section.split not in (None, DEFAULT_SPLIT):
        raise DataError(
            "a single file has no configurations and no splits",
            where=section.path,
            remedy="Set name and split to null, and name the file that holds the wanted part.",
        )
    yield from READERS[suffix](located.path, section.path)


def _read_jsonl(path: Path, written: str) -> RecordStream:
    # Bytes, because text mode would end a line at \r too, and one bad byte would end the reading.
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            line = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if line.strip():
                yield _parse_json_line(line, f"{written}:{number}")


def _parse_json_line(line: bytes, where: str) -> Record | BadRecord:
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRecord(where, f"not UTF-8 at byte {error.start + 1} of the line")
    except json.JSONDecodeError as error:
        return BadRecord(where, f"not valid JSON at column {error.colno}: {error.msg}")
    except RecursionError:
        return BadRecord(where, "JSON nested too deeply")
    if not isinstance(value, dict):
        return BadRecord(where, f"a JSON {type(value).__name__} where an object is needed")
    return Record(value, where)


def _read_csv(path: Path, written: str) -> RecordStream:
    # Bytes that are no UTF-8 pass as surrogates and are refused only where such a field is used.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        header: list[str] | None = None
        while True:
            where = f"{written}:{reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRecord(where, f"not valid CSV: {error}")
                continue
            if not cells:
                continue  # an empty line
            if header is None:
                header = _check_header(cells, where)
            elif len(cells) != len(header):
                yield BadRecord(where, f"{len(cells)} cells under a header of {len(header)}")
            else:
                yield Record(dict(zip(header, cells, strict=True)), where)


def _check_header(header: list[str], where: str) -> list[str]:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(
            f"the CSV header names {', '.join(map(repr, twice))} more than once", where=where
        )
    return header


def _read_parquet(path: Path, written: str) -> RecordStream:
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for fields in batch.to_pylist():
                    number += 1
                    yield Record(fields, f"{written} row {number}")
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"not a readable Parquet file: {error}", where=written) from error


READERS: dict[str, Callable[[Path, str], RecordStream]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _read_folder(folder: Path, section: SourceSection) -> RecordStream:
    split = section.split or DEFAULT_SPLIT
    for number, fields in enumerate(_load_folder(folder, section, split), start=1):
        yield Record(fields, f"{section.path} [{split}] row {number}")


def _load_folder(folder: Path, section: SourceSection, split: str) -> Any:
    import datasets  # slow to import, and files do without it

    try:
        names = datasets.get_dataset_config_names(str(folder))
        # Only an explicit "default" may stand for "none named".
        known = section.name in names or (
            section.name is None and (len(names) == 1 or "default" in names)
        )
        if known:
            return datasets.load_dataset(str(folder), section.name, split=split)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        # `datasets` lists the available splits in its own message.
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise DataError(
            f"cannot be read with split {split!r}: {reason}",
            where=section.path,
            remedy="Check the section's split and name.",
        ) from error
    raise DataError(
        f"has no configuration {section.name!r}" if section.name else "has several configurations",
        where=section.path,
        remedy=f"Set name to one of: {', '.join(names)}.",
    )
