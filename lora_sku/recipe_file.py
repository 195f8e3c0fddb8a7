"""Recipes as YAML: read with line numbers, overridden key by key, written back.

Every fault of a recipe is told at once, each with the line or the `--set` it comes from.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from yaml.constructor import SafeConstructor

from lora_sku.errors import RecipeError
from lora_sku.recipe import Recipe
from lora_sku.recipe_faults import Fault, KeyPath, faults_of

# Deeper than any recipe; what is deeper is an alias that contains itself.
DEEPEST = 20


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 2e-4 is a number, as it is in YAML 1.2."""


class _Dumper(yaml.SafeDumper):
    """The same rule on the way out: a text that looks like 2e-4 gets quotes."""


def _write_text(dumper: _Dumper, text: str) -> yaml.Node:
    # PyYAML writes these line breaks bare, and they come back as a space or a new line.
    style = '"' if any(char in text for char in "\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _write_text)
for _yaml_class in (_Loader, _Dumper):
    _yaml_class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
        list("-+.0123456789"),
    )


@dataclass
class _Draft:
    """A recipe before its validation.

    Attributes:
        values: Plain nested mappings, as written.
        places: Where each key was written; () is the whole file.
    """

    values: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """Where a key was written, or else the nearest section around it."""
        while path not in self.places:
            path = path[:-1]
        return self.places[path]


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and check all of it.

    Args:
        name_or_path: The name of a shipped recipe, or the path of a YAML file.
        overrides: `section.key=value` each, the value in YAML; later ones win.

    Raises:
        RecipeError: the file is missing or no YAML, an override has another form, or values are
            wrong; then all of them are told, a line each.
    """
    path = _find(name_or_path)
    draft = _read_file(path)
    for override in overrides:
        _apply(override, draft)
    try:
        return Recipe.model_validate(draft.values)
    except ValidationError as error:
        raise _recipe_error(faults_of(error, draft.values), draft) from error


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of each recipe that comes with lora-sku, sorted by name."""
    package = Path(__file__).resolve().parent
    inside = package / "recipes"  # where a wheel puts them; a checkout has them beside the package
    folder = inside if inside.is_dir() else package.parent / "recipes"
    files = sorted(folder.rglob("*.yaml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def dump_recipe(recipe: Recipe) -> str:
    """Write a recipe, defaults included, as YAML that loads back to an equal recipe."""
    text = yaml.dump(
        recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True
    )
    assert isinstance(text, str)
    return text


def _find(name_or_path: str | Path) -> Path:
    shipped = shipped_recipes()
    if str(name_or_path) in shipped:
        return shipped[str(name_or_path)]
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path
    asked = path.name.removesuffix(".yaml")  # Path.stem would cut qwen2.5-7b at its dot
    close = difflib.get_close_matches(asked, shipped, n=3, cutoff=0.4) or list(shipped)
    raise RecipeError(
        "is a folder, not a recipe" if path.is_dir() else "no such recipe",
        where=str(name_or_path),
        remedy=f"Name a YAML file or a shipped recipe: {', '.join(close)}.",
    )


def _read_file(path: Path) -> _Draft:
    here = Path.cwd()
    name = str(path.relative_to(here) if path.is_relative_to(here) else path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot be read: {error}", where=name) from error
    lines: dict[KeyPath, int] = {}
    values = _parse(text, name, lines)
    if not isinstance(values, dict):
        raise RecipeError(
            "is not a recipe",
            where=name,
            remedy="A recipe is a YAML mapping with base_model, data and output_dir at least.",
        )
    return _Draft(values, {(): name} | {path: f"{name}:{line}" for path, line in lines.items()})


def _parse(text: str, name: str, lines: dict[KeyPath, int]) -> Any:
    """Read one YAML document into plain values and note the line of every key.

    Raises:
        RecipeError: at `name`:line, for a syntax error, a key that stands twice or is no text.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _plain(node, (), name, lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise RecipeError(f"not valid YAML: {what}", where=where) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        raise RecipeError(f"not valid YAML: {error.reason}", where=f"{name}:{line}") from error


def _plain(node: yaml.Node, path: KeyPath, name: str, lines: dict[KeyPath, int]) -> Any:
    if len(path) > DEEPEST:
        raise RecipeError("an alias contains itself", where=f"{name}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        return [_plain(item, (*path, number), name, lines) for number, item in items]
    if not isinstance(node, yaml.MappingNode):
        return SafeConstructor().construct_object(node)
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = _plain(key_node, path, name, lines)
        inner = (*path, key) if isinstance(key, str) else path
        if not isinstance(key, str):
            raise RecipeError(
                f"the key {key!r} is not text", where=f"{name}:{line}", remedy="Put it in quotes."
            )
        if key in values:
            raise RecipeError(
                f"{_dotted(inner)} stands twice, first in line {lines[inner]}",
                where=f"{name}:{line}",
                remedy="Keep one of them.",
            )
        lines[inner] = line
        values[key] = _plain(value_node, inner, name, lines)
    return values


def _apply(override: str, draft: _Draft) -> None:
    """Set one key of the draft, creating the sections that lead to it."""
    key, equals, text = override.partition("=")
    path: KeyPath = tuple(key.strip().split("."))
    where = f"--set {key.strip()}"
    if not equals or "" in path:
        raise RecipeError(
            f"{override!r} is not of the form section.key=value",
            where="--set",
            remedy="For example training.max_steps=200.",
        )
    value = _parse(text, where, {})
    if value is None and text.lstrip().startswith("#"):
        raise RecipeError(
            "YAML takes the value for a comment",
            where=where,
            remedy="Put it in quotes of its own.",
        )
    section: Any = draft.values
    for depth, step in enumerate(path[:-1], start=1):
        if step not in section:
            draft.places[path[:depth]] = where  # a misspelt section stands here and in no file
        section = section.setdefault(step, {})
        if not isinstance(section, dict):
            raise RecipeError(f"{_dotted(path[:depth])} is not a section", where=where)
    section[path[-1]] = value
    for old in [old for old in draft.places if old[: len(path)] == path]:
        del draft.places[old]
    draft.places[path] = where


def _recipe_error(faults: Sequence[Fault], draft: _Draft) -> RecipeError:
    told = [(draft.place(fault.path), _told(fault, draft)) for fault in faults]
    if len(told) == 1:
        return RecipeError(told[0][1], where=told[0][0])
    lines = "\n".join(f"  {place}: {text}" for place, text in told)
    return RecipeError(f"{len(told)} faults in the recipe\n{lines}", where=draft.places[()])


def _told(fault: Fault, draft: _Draft) -> str:
    key = _dotted(fault.path)
    return fault.text if draft.place(fault.path) == f"--set {key}" else f"{key}: {fault.text}"


def _dotted(path: KeyPath) -> str:
    return ".".join(str(step) for step in path)
