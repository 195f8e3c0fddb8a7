"""From a record's columns to (prompt, answer) pairs; one small function for each format.

A format reads only the columns it needs for the asked side. What it cannot use it reports as a
`BadRecordError`, whose text names columns and types but never quotes an answer.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, Literal

from lora_sku.recipe import DataFormat

Side = Literal["forget", "retain"]
Pair = tuple[str, str]
Fields = Mapping[str, Any]
Format = Callable[[Fields, Side], list[Pair]]


class BadRecordError(ValueError):
    """A record that its format cannot use; the text is one sentence without a full stop."""


def rename_columns(fields: Fields, columns: Mapping[str, str]) -> Fields:
    """Show a record under the format's own field names.

    Args:
        fields: The record.
        columns: The format's field name -> the data set's column name.

    Raises:
        BadRecordError: the record lacks a column that `columns` names.
    """
    if not columns:
        return fields
    return {**fields, **{name: _value(fields, column) for name, column in columns.items()}}


def _value(fields: Fields, name: str) -> Any:
    if name not in fields:
        near = difflib.get_close_matches(name.casefold(), [str(key) for key in fields], n=1)
        hint = f"; the nearest is {near[0]!r}" if near else ""
        raise BadRecordError(
            f"no column {name!r} among {', '.join(map(repr, fields)) or 'none'}{hint}"
        )
    return fields[name]


def _checked_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadRecordError(f"{name} is a {type(value).__name__} where text is needed")
    text = value.strip()
    if not text:
        raise BadRecordError(f"{name} is blank")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        # A lone surrogate: an undecodable CSV byte or half a JSON \u pair. No tokenizer takes it.
        raise BadRecordError(f"{name} is not valid Unicode text") from error
    return text


def _text(fields: Fields, name: str) -> str:
    return _checked_text(_value(fields, name), name)


def _flag(fields: Fields, name: str) -> bool:
    value = _value(fields, name)
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"  # as a CSV file spells it
    if not isinstance(value, bool):
        raise BadRecordError(f"{name} is a {type(value).__name__} where true or false is needed")
    return value


def _pku_saferlhf(fields: Fields, side: Side) -> list[Pair]:
    prompt = _text(fields, "prompt")
    wanted = side == "retain"
    return [
        (prompt, _text(fields, f"response_{i}"))
        for i in (0, 1)
        if _flag(fields, f"is_response_{i}_safe") is wanted
    ]


def _truthfulqa(fields: Fields, side: Side) -> list[Pair]:
    def spelling(hub: str, csv: str) -> str:
        return csv if csv in fields and hub not in fields else hub

    prompt = _text(fields, spelling("question", "Question"))
    if side == "forget":
        answers = _answers(fields, spelling("incorrect_answers", "Incorrect Answers"))
    else:
        best = _text(fields, spelling("best_answer", "Best Answer"))
        answers = [best, *_answers(fields, spelling("correct_answers", "Correct Answers"))]
    return [(prompt, answer) for answer in dict.fromkeys(answers)]


def _answers(fields: Fields, name: str) -> list[str]:
    value = _value(fields, name)
    if isinstance(value, str):
        # The CSV file separates answers with ';' and sometimes ends with one.
        parts = [part for part in value.split(";") if part.strip()]
        return [_checked_text(part, name) for part in parts or [value]]
    if not isinstance(value, list):
        raise BadRecordError(f"{name} is a {type(value).__name__} where a list is needed")
    if not value:
        raise BadRecordError(f"{name} is an empty list")
    return [_checked_text(part, f"{name}[{i}]") for i, part in enumerate(value)]


def _prompt_response(fields: Fields, _: Side) -> list[Pair]:
    return [(_text(fields, "prompt"), _text(fields, "response"))]


def _messages(fields: Fields, _: Side) -> list[Pair]:
    messages = _value(fields, "messages")
    if not isinstance(messages, list) or not all(isinstance(turn, dict) for turn in messages):
        raise BadRecordError("messages is not a list of {role, content} objects")
    roles = [str(_value(turn, "role")) for turn in messages]
    if roles != ["user", "assistant"]:
        raise BadRecordError(
            "messages must be one user turn and the assistant's answer, but the roles are "
            + (", ".join(roles) or "none")
        )
    user, assistant = messages
    return [
        (
            _checked_text(_value(user, "content"), "the user's content"),
            _checked_text(_value(assistant, "content"), "the assistant's content"),
        )
    ]


def _alpaca(fields: Fields, _: Side) -> list[Pair]:
    prompt = _text(fields, "instruction")
    # Many such sets have no input column; a misspelt one must not be lost without a word.
    if "input" not in fields and difflib.get_close_matches(
        "input", [str(key).casefold() for key in fields], cutoff=0.8
    ):
        _value(fields, "input")
    extra = fields.get("input")
    if extra is not None and not (isinstance(extra, str) and not extra.strip()):
        prompt = f"{prompt}\n\n{_checked_text(extra, 'input')}"
    return [(prompt, _text(fields, "output"))]


FORMATS: dict[DataFormat, Format] = {
    "pku-saferlhf": _pku_saferlhf,
    "truthfulqa": _truthfulqa,
    "prompt-response": _prompt_response,
    "messages": _messages,
    "alpaca": _alpaca,
}

# What `columns` may rename.
FORMAT_FIELDS: dict[DataFormat, tuple[str, ...]] = {
    "pku-saferlhf": (
        "prompt",
        "response_0",
        "response_1",
        "is_response_0_safe",
        "is_response_1_safe",
    ),
    "truthfulqa": ("question", "best_answer", "correct_answers", "incorrect_answers"),
    "prompt-response": ("prompt", "response"),
    "messages": ("messages",),
    "alpaca": ("instruction", "input", "output"),
}
