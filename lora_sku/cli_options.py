"""Options that several commands share."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Any

import click

from lora_sku.errors import StorageError

_UNITS = {"": 2**30, "B": 1, "GIB": 2**30, "MIB": 2**20, "GB": 10**9, "MB": 10**6}


class MemorySize(click.ParamType[int]):
    """An amount of memory in bytes, written as 8GiB, 8192MiB, 8GB or 8 (GiB)."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes."""
        if isinstance(value, int):
            return value
        written = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(value))
        if written is None or written[2].upper() not in _UNITS:
            self.fail(f"{value!r} is not a size such as 8GiB or 8192MiB.", param, ctx)
        size = int(float(written[1]) * _UNITS[written[2].upper()])
        if size == 0:
            self.fail("there is no card without memory.", param, ctx)
        return size


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """RECIPE and --set."""
    command = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        help="Override a recipe's value; repeatable.",
    )(command)
    return click.argument("recipe_name", metavar="RECIPE")(command)


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """--output, --resume and --overwrite."""
    for option in (
        click.option("--overwrite", is_flag=True, help="Replace a run that is already there."),
        click.option("--resume", is_flag=True, help="Go on with an interrupted run."),
        click.option("--output", type=click.Path(path_type=Path), help="Run directory."),
    ):
        command = option(command)
    return command


@contextmanager
def resumable(command: str, folder: Path) -> Iterator[None]:
    """On Ctrl-C say how to go on, and exit with 130 as a stopped program does.

    Args:
        command: What was stopped.
        folder: Of the run; what it was started with stands in its recipe.yaml.
    """
    try:
        yield
    except KeyboardInterrupt:
        recipe = folder.expanduser() / "recipe.yaml"
        further = f"Go on with: lora-sku {command} {quote(str(recipe))} --resume"
        click.echo(f"Stopped. {further if recipe.exists() else 'Nothing was kept.'}", err=True)
        sys.exit(130)


def refuse_existing(file: Path, *, overwrite: bool) -> None:
    """Refuse, before any work, to replace a file that nobody said may go.

    Raises:
        StorageError: if it exists and ``overwrite`` is off, or if it is a folder.
    """
    if file.is_dir() or (file.exists() and not overwrite):
        raise StorageError(
            "this is a folder" if file.is_dir() else "this file already exists",
            where=str(file),
            remedy="Choose another --output, or replace a file by --overwrite.",
        )


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
