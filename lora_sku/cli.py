"""The command line: turns words into calls, and a `UserError` into a message and exit code 2.

The rooms behind a command are imported inside it, so that `--help` and a mistyped recipe answer at
once instead of after the seconds that torch takes to load.
"""

import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click

from lora_sku.cli_options import (
    MemorySize,
    json_option,
    recipe_options,
    refuse_existing,
    resumable,
    run_options,
)
from lora_sku.cli_recipes import recipes
from lora_sku.cli_report import compare, report
from lora_sku.errors import UserError
from lora_sku.quiet import quiet_libraries, quiet_models
from lora_sku.threads import keep_few_kernels, wait_briefly


class _Group(click.Group):
    """Shows a `UserError` as one paragraph, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(2)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Loading makes a million objects and no garbage; looking for it takes a second."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # or the next collection would look at all of them once
        if was_on:
            gc.enable()


@click.group(cls=_Group)
@click.version_option(package_name="lora-sku")
def main() -> None:
    """Make a language model forget harmful knowledge on one consumer GPU."""
    wait_briefly()
    keep_few_kernels()


for _command in (recipes, report, compare):
    main.add_command(_command)


@main.command()
@recipe_options
@run_options
@json_option
def run(
    recipe_name: str,
    overrides: tuple[str, ...],
    output: Path | None,
    resume: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Acquire, negate and evaluate: the whole path of RECIPE, a file or a shipped name."""
    from lora_sku.recipe_file import load_recipe

    recipe = load_recipe(recipe_name, overrides)
    quiet_libraries()
    from lora_sku import pipeline
    from lora_sku.console import ConsoleProgress, print_evaluation

    folder = output or Path(recipe.output_dir)
    with resumable("run", folder), ConsoleProgress() as progress:
        result = pipeline.run(
            recipe, output=output, resume=resume, overwrite=overwrite, progress=progress
        )
    if as_json:
        summary = result.evaluation.as_dict() | {
            "folder": str(result.folder),
            "adapter": str(result.adapter),
            "memory": {name: peak.as_dict() for name, peak in result.memory.items()},
        }
        click.echo(json.dumps(summary, indent=2))
        return
    print_evaluation(result.evaluation)
    peak = max(result.memory.items(), key=lambda item: item[1].working_gib)
    click.echo(f"Peak memory {peak[1].working_gib:.2f} GiB ({peak[0]}).")
    click.echo(f"Negated adapter: {result.adapter}\nReport: {result.folder / 'report.html'}")


@main.command()
@recipe_options
@run_options
def acquire(
    recipe_name: str,
    overrides: tuple[str, ...],
    output: Path | None,
    resume: bool,
    overwrite: bool,
) -> None:
    """Stage 1 alone: train RECIPE's harmful adapter and keep it, marked DO-NOT-SHIP."""
    from lora_sku.recipe_file import load_recipe

    recipe = load_recipe(recipe_name, overrides)
    quiet_libraries()
    from lora_sku import pipeline
    from lora_sku.console import ConsoleProgress

    folder = output or Path(recipe.output_dir)
    with resumable("acquire", folder), ConsoleProgress() as progress:
        adapter = pipeline.acquire(
            recipe, output=output, resume=resume, overwrite=overwrite, progress=progress
        )
    click.echo(f"Harmful adapter: {adapter}")
    click.echo(f"Next: lora-sku negate {adapter}")


@main.command()
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("--strength", type=float, default=1.0, show_default=True)
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder to write [default: ADAPTER-negated]."
)
@click.option("--overwrite", is_flag=True, help="Replace the folder if it exists.")
def negate(adapter: Path, strength: float, output: Path | None, overwrite: bool) -> None:
    """Stage 2 alone: write the negation of ADAPTER as an ordinary PEFT adapter, and verify it."""
    quiet_libraries()
    from lora_sku.adapters import read_lora
    from lora_sku.negation import negate as negate_adapter

    named = Path(os.path.abspath(adapter))  # so that "." has a name; links are not followed
    target = output or named.with_name(f"{named.name}-negated")
    written = negate_adapter(adapter, target, strength=strength, overwrite=overwrite)
    provenance = read_lora(written).provenance
    if provenance is not None and provenance.role == "acquired":
        click.echo(
            "Warning: this adapter was negated already, so its negation is the HARMFUL direction."
            " Its folder says DO-NOT-SHIP.",
            err=True,
        )
        click.echo(f"Harmful adapter: {written}")
        return
    click.echo(f"Negated adapter: {written}")


@main.command()
@recipe_options
@click.argument("adapter", type=click.Path(path_type=Path))
@json_option
def evaluate(recipe_name: str, overrides: tuple[str, ...], adapter: Path, as_json: bool) -> None:
    """Score ADAPTER beside RECIPE's base on RECIPE's data."""
    from lora_sku.recipe_file import load_recipe

    recipe = load_recipe(recipe_name, overrides)
    quiet_libraries()
    from lora_sku import pipeline
    from lora_sku.console import ConsoleProgress, print_evaluation

    with ConsoleProgress() as progress:
        evaluation = pipeline.evaluate(recipe, adapter, progress=progress)
    if as_json:
        click.echo(json.dumps(evaluation.as_dict(), indent=2))
    else:
        print_evaluation(evaluation)


@main.command()
@recipe_options
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("sweep.json"),
    show_default=True,
    help="File to write.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@json_option
def sweep(
    recipe_name: str,
    overrides: tuple[str, ...],
    adapter: Path,
    output: Path,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Try strengths of ADAPTER on RECIPE's validation split.

    Prints every point and the one that forgets most within negation.retain_budget and kl_budget.
    """
    from lora_sku.recipe_file import load_recipe

    recipe = load_recipe(recipe_name, overrides)
    refuse_existing(output, overwrite=overwrite)
    quiet_libraries()
    from lora_sku import pipeline
    from lora_sku.console import ConsoleProgress, print_sweep
    from lora_sku.storage import write_json

    with ConsoleProgress() as progress:
        swept = pipeline.sweep(recipe, adapter, progress=progress)
    write_json(output, swept.as_dict())
    if as_json:
        click.echo(json.dumps(swept.as_dict(), indent=2))
        return
    print_sweep(swept)
    click.echo(f"All points: {output}")


@main.command()
@recipe_options
@json_option
def validate(recipe_name: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check RECIPE and describe its data; no weights are loaded."""
    from lora_sku.recipe_file import load_recipe

    recipe = load_recipe(recipe_name, overrides)
    quiet_libraries()
    from lora_sku import pipeline
    from lora_sku.errors import SourceUnreachableError

    try:
        audit = pipeline.validate(recipe)
    except SourceUnreachableError as error:
        # The recipe itself is sound; what the hub holds cannot be looked at from here.
        if as_json:
            click.echo(json.dumps({"recipe": "valid", "data": None, "not_checked": str(error)}))
        else:
            click.echo(f"The recipe is valid. Its data was not checked: {error}")
        return
    if as_json:
        click.echo(json.dumps({"recipe": "valid", "data": audit.to_dict()}, indent=2))
    else:
        click.echo("The recipe is valid.\n")
        click.echo(audit.render())


@main.command()
@recipe_options
@click.option(
    "--gpu-memory",
    type=MemorySize(),
    metavar="SIZE",
    help="What is free on the card, all of it counted, such as 7.6GiB (a bare number is GiB);"
    " exit code 1 if the plan needs more.",
)
@click.option(
    "--tokens",
    type=click.IntRange(min=2, max=10_000_000),
    help="Tokens in flight [default: the longest prompts and answers that RECIPE allows].",
)
@click.option("--device", type=click.Choice(["cuda", "cpu"]), help="[default: RECIPE's, or cuda]")
@json_option
def plan(
    recipe_name: str,
    overrides: tuple[str, ...],
    gpu_memory: int | None,
    tokens: int | None,
    device: Literal["cuda", "cpu"] | None,
    as_json: bool,
) -> None:
    """Predict the peak memory of RECIPE; needs no weights, no network and no GPU.

    Exits with 1 if --gpu-memory is given and is not enough, else with 0. --json prints model,
    device, micro_batch, tokens, upper_bound, total and stages, in bytes; cards (size in GB: whether
    it fits, 5 % being the driver's); gpu_memory and enough, null without --gpu-memory; and, if it
    is not enough, knobs and together, the peak with all of them turned.
    """
    with _without_collection():
        from lora_sku.recipe_file import load_recipe

        recipe = load_recipe(recipe_name, overrides)
        quiet_models()  # reading data sets is not needed here, and loading that takes time
        from lora_sku.planning import forecast
        from lora_sku.planning.table import print_forecast

        told = forecast(recipe, gpu_memory=gpu_memory, tokens=tokens, device=device)
    if as_json:
        click.echo(json.dumps(told.as_dict(), indent=2))
    else:
        print_forecast(told)
    if told.enough is False:
        sys.exit(1)
