"""A run directory -> `RunEvidence`: all that its files say, checked.

A stage that has not happened yet is told and left out. Anything else that is missing or damaged is
refused with the file and the line, for a report must not look whole when its evidence is not.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from lora_sku.artifacts import RunDirectory
from lora_sku.errors import RunDirectoryError
from lora_sku.judging import Generation
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import dump_recipe, load_recipe
from lora_sku.report.records import (
    EnvironmentRecord,
    EvaluationRecord,
    MemoryRecord,
    Step,
    SweepRecord,
)

_T = TypeVar("_T")


@dataclass(frozen=True)
class RunEvidence:
    """What a run left behind.

    Attributes:
        folder: Where it was read.
        recipe: As resolved.
        recipe_text: The same as YAML.
        environment: Versions, device, seed, fingerprints.
        steps: Of stage 1.
        sweep: Every strength tried; None if none was, or not yet.
        memory: Planned and measured peaks.
        evaluation: Base beside unlearned.
        generations: Prompts with both completions and their labels.
        missing: What has not happened yet, a sentence each.
    """

    folder: Path
    recipe: Recipe
    recipe_text: str
    environment: EnvironmentRecord
    steps: tuple[Step, ...]
    sweep: SweepRecord | None
    memory: MemoryRecord | None
    evaluation: EvaluationRecord | None
    generations: tuple[Generation, ...]
    missing: tuple[str, ...]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name


def read_run(folder: Path | str) -> RunEvidence:
    """Read a run directory; no model, no data and no network are needed.

    Args:
        folder: Finished or not.

    Raises:
        RunDirectoryError: if there is no run, or if a file is missing or damaged.
        RecipeError: if its recipe cannot be read.
    """
    directory = RunDirectory(Path(folder).expanduser())
    if not directory.recipe.is_file() or not directory.environment.is_file():
        raise RunDirectoryError(
            "holds no run: recipe.yaml and environment.json are what every run begins with"
            if directory.path.is_dir()
            else "no such folder",
            where=str(directory.path),
            remedy="Name the folder that `lora-sku run` wrote.",
        )
    recipe = load_recipe(directory.recipe)
    _refuse_gaps(directory, recipe)
    evaluation = _read(directory.evaluation, EvaluationRecord)
    return RunEvidence(
        folder=directory.path,
        recipe=recipe,
        recipe_text=dump_recipe(recipe),
        environment=_parsed(directory.environment, EnvironmentRecord),
        steps=tuple(_lines(directory.metrics, Step)),
        sweep=_read(directory.sweep, SweepRecord),
        memory=_read(directory.memory, MemoryRecord),
        evaluation=evaluation,
        generations=tuple(_lines(directory.generations, Generation)),
        missing=tuple(_not_happened(directory, recipe, evaluation)),
    )


def _refuse_gaps(directory: RunDirectory, recipe: Recipe) -> None:
    """The evaluation comes last, so with it nothing else may be missing."""
    needed = [directory.metrics, directory.memory, directory.generations]
    if recipe.negation.strength == "auto":
        needed.append(directory.sweep)
    gone = [path.name for path in needed if not path.exists()]
    if directory.evaluation.exists() and gone:
        raise RunDirectoryError(
            f"{', '.join(gone)} is missing, though this run was evaluated",
            where=str(directory.path),
            remedy="Put it back; generations and memory come again with"
            f" `lora-sku run {directory.recipe} --resume`.",
        )


def _not_happened(
    directory: RunDirectory, recipe: Recipe, evaluation: EvaluationRecord | None
) -> Iterator[str]:
    if not directory.metrics.exists():
        yield "Stage 1 (acquire) has not taken a step yet."
    if recipe.negation.strength == "auto" and not directory.sweep.exists():
        yield "The strength has not been chosen yet: no sweep was made."
    if not directory.adapter.exists():
        yield "Stage 2 (negate) has not happened yet: there is no negated adapter."
    if evaluation is None:
        yield "The evaluation has not happened yet: nothing is known of what was gained or paid."
        return
    if recipe.evaluation.lm_eval is not None and not evaluation.lm_eval:
        yield "The tasks of lm-evaluation-harness have not been run yet."
    waiting = [name for name in recipe.evaluation.judges if name not in evaluation.judges]
    if waiting:
        yield f"Not all judges have spoken yet: {', '.join(waiting)} has not."


def _read(path: Path, kind: type[_T]) -> _T | None:
    return _parsed(path, kind) if path.exists() else None


def _parsed(path: Path, kind: type[_T]) -> _T:
    return _typed(_json(_text(path), path, 1), kind, str(path))


def _lines(path: Path, kind: type[_T]) -> Iterator[_T]:
    """A value for each complete line; a killed run may have left half of one at the end."""
    if not path.exists():
        return
    # Only \n ends a line: texts may hold other line breaks.
    for number, line in enumerate(_text(path).split("\n")[:-1], start=1):
        yield _typed(_json(line, path, number), kind, f"{path}:{number}")


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise RunDirectoryError(f"cannot be read: {error}", where=str(path)) from error


def _json(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RunDirectoryError(
            f"is not valid JSON: {error.msg}",
            where=f"{path}:{first_line + error.lineno - 1}",
            remedy=_REMEDY,
        ) from error


def _typed(value: Any, kind: type[_T], where: str) -> _T:
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(step) for step in first["loc"])
        raise RunDirectoryError(
            f"{key or 'the value'}: {first['msg']}", where=where, remedy=_REMEDY
        ) from error


_REMEDY = "The file is damaged or of another version; restore it, or evaluate again with --resume."
