"""pydantic's faults of a recipe, one plain sentence for each key that is wrong."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lora_sku.recipe import Recipe

KeyPath = tuple[str | int, ...]

# Stands for the keys of a mapping whose names the recipe chooses.
_ANY_NAME = "NAME"

# pydantic's comparison faults: the sign and the name of the limit in the fault's context.
LIMITS = {
    "greater_than_equal": (">=", "ge"),
    "greater_than": (">", "gt"),
    "less_than_equal": ("<=", "le"),
    "less_than": ("<", "lt"),
}
# The beginning of pydantic's fault type -> what the value must be, in a recipe's words.
EXPECTED = {
    "string": "text (put it in quotes)",
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "tuple": "a list",
    "dict": "a mapping of keys to values",
    "model": "a section of its own, with keys below it",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: the keys that lead to it, and a sentence without a full stop."""

    path: KeyPath
    text: str


def faults_of(error: ValidationError, values: Mapping[str, Any]) -> list[Fault]:
    """Translate a failed validation of `Recipe`.

    Args:
        error: What `Recipe.model_validate(values)` raised.
        values: The recipe as it was written.

    Returns:
        One fault a key, in the order of the recipe's sections.
    """
    found: dict[KeyPath, list[tuple[KeyPath, str]]] = {}
    for detail in error.errors(include_url=False):
        path, root = _keys_in(detail["loc"], values)
        found.setdefault(root, []).append((path, _sentence(detail, path)))
    faults = []
    for alternatives in found.values():
        # A key that takes several types has one fault for each; the one that got deepest into the
        # value tells what was meant, and equally deep ones are told as alternatives.
        path = max((path for path, _ in alternatives), key=len)
        texts = [text for other, text in alternatives if other == path]
        faults.append(Fault(path, ", or ".join(dict.fromkeys(texts))))
    return faults


def _keys_in(location: Sequence[str | int], values: Any) -> tuple[KeyPath, KeyPath]:
    """Split pydantic's location into the recipe's keys and the key whose type has alternatives.

    The location also names the alternative that was tried; what is no key of the recipe goes.
    """
    path: KeyPath = ()
    root: KeyPath | None = None
    for number, step in enumerate(location):
        inside = (isinstance(values, dict) and step in values) or (
            isinstance(values, list) and isinstance(step, int)
        )
        if inside:
            values = values[step]
            path += (step,)
        elif isinstance(values, dict) and number == len(location) - 1:
            path += (step,)  # the missing key itself
        elif root is None:
            root = path
    return path, path if root is None else root


def _sentence(detail: ErrorDetails, path: KeyPath) -> str:
    kind, given = detail["type"], detail["input"]
    context = detail.get("ctx", {})
    if kind == "missing":
        field = _section_at(path[:-1]).model_fields[str(path[-1])]
        choices = get_args(field.annotation)  # of a Literal; empty for other types
        hint = f"one of {', '.join(choices)}" if choices else field.description
        return f"missing; {hint}" if hint else "missing"
    if kind == "extra_forbidden":
        return _unknown_key(path)
    if kind == "literal_error":
        return _not_among(re.findall(r"'([^']*)'", context["expected"]), given)
    if kind == "value_error":
        return str(context["error"])
    if kind in LIMITS:
        sign, limit = LIMITS[kind]
        return f"must be {sign} {context[limit]:g}, got {_shown(given)}"
    if kind == "too_short":
        return f"must list at least {context['min_length']}, got {_shown(given)}"
    expected = EXPECTED.get(kind.partition("_")[0])
    if expected is None:
        return f"{detail['msg']}, got {_shown(given)}"
    return f"must be {expected}, got {_shown(given)}"


def _shown(value: Any) -> str:
    """Write a value as a recipe would, cut to a length that fits a line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _not_among(choices: Sequence[str], given: Any) -> str:
    listed = f"must be one of {', '.join(choices)}" if len(choices) > 1 else f"must be {choices[0]}"
    close = difflib.get_close_matches(str(given).lower(), choices, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{listed}, got {_shown(given)}{hint}"


def _unknown_key(path: KeyPath) -> str:
    section, key = _section_at(path[:-1]), str(path[-1])
    close = difflib.get_close_matches(key, section.model_fields, n=1)
    elsewhere = [
        ".".join(other) or "the top level"
        for other, fields in _sections(Recipe)
        if key in fields.model_fields
    ]
    hints = [f"{key} belongs to {', '.join(elsewhere)}"] if elsewhere else []
    if close:
        hints.append(f"did you mean {close[0]}?")
    if not hints:
        hints.append(f"the keys here are {', '.join(section.model_fields)}")
    return "; ".join(["unknown key", *hints])


def _section_at(path: KeyPath) -> type[BaseModel]:
    """The section that these keys lead to; where names are free, any name leads to it."""
    return next(
        section
        for keys, section in _sections(Recipe)
        if len(keys) == len(path)
        and all(key in (_ANY_NAME, step) for key, step in zip(keys, path, strict=True))
    )


def _sections(
    section: type[BaseModel], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], type[BaseModel]]]:
    """Yield every section of the recipe with the keys that lead to it, `section` first."""
    yield path, section
    for name, field in section.model_fields.items():
        inner = (*path, name, _ANY_NAME) if get_origin(field.annotation) is dict else (*path, name)
        # An optional section is one alternative of its key's type.
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _sections(kind, inner)
