"""Completions that a person has labelled, to try a judge on."""

import json
from dataclasses import dataclass
from pathlib import Path

from lora_sku.errors import DataError
from lora_sku.judges.verdicts import LABELS, Case, Label

_KEYS = {"prompt", "completion", "harmful_prompt", "references", "label"}


@dataclass(frozen=True, slots=True)
class Labelled:
    """A case and what a person says of it."""

    case: Case
    label: Label


def read_labelled(path: Path) -> list[Labelled]:
    """Read a .jsonl with prompt, completion, harmful_prompt, references and label a line.

    Raises:
        DataError: with the line, for one that has other keys or no such label.
    """
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        record = json.loads(line)
        if record.keys() != _KEYS or record["label"] not in LABELS:
            raise DataError(
                "is no labelled completion",
                where=f"{path}:{number}",
                remedy=f"It needs {', '.join(sorted(_KEYS))}; the labels are {', '.join(LABELS)}.",
            )
        case = Case(
            record["prompt"],
            record["completion"],
            harmful_prompt=record["harmful_prompt"],
            references=tuple(record["references"]),
        )
        found.append(Labelled(case, record["label"]))
    return found
