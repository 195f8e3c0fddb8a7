"""`python -m benchmarks.speed`: seconds of an optimizer step, lora-sku beside textbook QLoRA."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.command import run_command
from benchmarks.report import REPORTS

if TYPE_CHECKING:
    from benchmarks.workload import Lengths

# Around the middle point, one length at a time.
_MIDDLE = {"prompt_tokens": 64, "answer_tokens": 32, "responses": 5, "prompts": 2}
_GRID = {
    "prompt_tokens": (16, 256),
    "answer_tokens": (8, 128),
    "responses": (1, 2, 10),
    "prompts": (1, 4),
}


@click.command()
@click.option("--recipe", "recipe_name", default="smollm2-135m", show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE")
@click.option("--responses", default=5, show_default=True, help="k on the recipe's data.")
@click.option("--steps", default=24, show_default=True, help="Timed steps on the recipe's data.")
@click.option("--warm-up", default=2, show_default=True, help="Steps before the timed ones.")
@click.option("--equal-steps", default=4, show_default=True, help="fp32 steps that must agree.")
@click.option("--grid/--no-grid", default=True, help="Vary lengths, k and batch too.")
@click.option("--grid-steps", default=5, show_default=True, help="Timed steps a point of the grid.")
@click.option("--memory/--no-memory", default=True, help="Compare the peaks too, in processes.")
@click.option("--reports", type=click.Path(path_type=Path), default=REPORTS, show_default=False)
def main(
    recipe_name: str,
    overrides: tuple[str, ...],
    responses: int,
    steps: int,
    warm_up: int,
    equal_steps: int,
    grid: bool,
    grid_steps: int,
    memory: bool,
    reports: Path,
) -> None:
    """Time both methods turn by turn on the same pairs, and write a report."""
    from lora_sku.quiet import quiet_models

    quiet_models()  # bitsandbytes gives its advice when it is imported
    from benchmarks import speed_runs
    from benchmarks.plots import require_matplotlib
    from benchmarks.report import require_folder, typed_command, write_report
    from benchmarks.speed_table import Findings, make_report, plot
    from lora_sku.recipe_file import load_recipe

    require_matplotlib()
    require_folder(reports)
    told = (f"losses.random_disassociation.responses={responses}", *overrides)
    recipe = load_recipe(recipe_name, told)
    click.echo("the recipe's data ...", err=True)
    headline = speed_runs.headline(recipe, steps=steps, warm_up=warm_up)
    click.echo("equal results in fp32 ...", err=True)
    equal = speed_runs.equality(recipe, steps=equal_steps)
    points = {}
    for lengths in _grid() if grid else ():
        click.echo(f"{lengths} ...", err=True)
        points[lengths] = speed_runs.point(recipe, lengths, steps=grid_steps, warm_up=1)
    peaks = None
    if memory:
        click.echo("peaks ...", err=True)
        peaks = speed_runs.peaks(recipe, steps=2)
    findings = Findings(recipe, recipe_name, bool(overrides), headline, equal, points, peaks)
    report = make_report(findings, typed_command("benchmarks.speed"))
    click.echo(write_report(report, reports, lambda path: plot(path, findings)))


def _grid() -> Iterator["Lengths"]:
    from benchmarks.workload import Lengths

    yield Lengths(**_MIDDLE)
    for name, values in _GRID.items():
        for value in values:
            yield Lengths(**_MIDDLE | {name: value})


if __name__ == "__main__":
    run_command(main)
