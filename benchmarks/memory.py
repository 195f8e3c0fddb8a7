"""`python -m benchmarks.memory`: peak memory of lora-sku beside other ways of doing SKU."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.command import refuse_unknown, run_command
from benchmarks.report import REPORTS

if TYPE_CHECKING:
    from benchmarks.memory_table import Row

DEMO = "smollm2"  # the demo recipe's real model
LARGEST = "7b"  # without a GPU lora-sku alone fits there


@click.command()
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    default=(DEMO, "0.9b", "1b", LARGEST),
    show_default=True,
    help="Models to measure: smollm2, or a random Llama (tiny, 0.9b, 1b, 7b).",
)
@click.option("--only", multiple=True, help="Measure these cells only, such as ours-nf4.")
@click.option("--prompt-tokens", default=64, show_default=True)
@click.option("--answer-tokens", default=160, show_default=True)
@click.option("--responses", default=5, show_default=True, help="k.")
@click.option("--prompts", default=1, show_default=True, help="Forget prompts of a step.")
@click.option("--steps", default=2, show_default=True, help="Optimizer steps of a cell.")
@click.option("--limit-gib", type=float, help="Memory of a cell [default: what is free, less 1].")
@click.option("--minutes", default=60.0, show_default=True, help="Given to each cell.")
@click.option("--models", type=click.Path(path_type=Path), help="Where random models are kept.")
@click.option("--keep", is_flag=True, help="Keep the 7b model, 13 GB, afterwards.")
@click.option("--reports", type=click.Path(path_type=Path), default=REPORTS, show_default=False)
@click.option("--cell", help="Measure one cell, given as JSON, in this process.", hidden=True)
def main(
    shapes: tuple[str, ...],
    only: tuple[str, ...],
    prompt_tokens: int,
    answer_tokens: int,
    responses: int,
    prompts: int,
    steps: int,
    limit_gib: float | None,
    minutes: float,
    models: Path | None,
    keep: bool,
    reports: Path,
    cell: str | None,
) -> None:
    """Measure every method on every shape, each in its own process, and write a report.

    By default a forget prompt with its answers, 64 + 6 x 160 tokens, is 1,024 tokens in flight.
    """
    from lora_sku.quiet import quiet_models

    quiet_models()
    if cell is not None:
        from benchmarks.cell import Cell, limit_memory, measure

        given = Cell.from_dict(json.loads(cell))
        if given.limit_gib is not None:
            limit_memory(given.limit_gib)
        click.echo(json.dumps(measure(given)))
        return
    import torch

    from benchmarks.memory_table import METHOD_NAMES, make_report, plan, plot
    from benchmarks.plots import require_matplotlib
    from benchmarks.processes import empty_process_gib, run_twice
    from benchmarks.report import require_folder, typed_command, write_report
    from benchmarks.shapes import SHAPES
    from benchmarks.workload import Lengths
    from lora_sku.storage import cache_folder

    refuse_unknown(only, METHOD_NAMES, "cell", "--only")
    require_folder(reports)
    refuse_unknown(shapes, [DEMO, *SHAPES], "shape", "--shape")
    require_matplotlib()
    models = models or cache_folder() / "benchmarks"
    lengths = Lengths(prompt_tokens, answer_tokens, responses, prompts)
    empty_gib = empty_process_gib()
    rows: list[Row] = []
    for shape in shapes:
        model = _model(shape, models)
        ours_only = shape == LARGEST and not torch.cuda.is_available()
        for name, cell_of in plan(model, lengths, steps, ours_only=ours_only):
            if only and name not in only:
                continue
            click.echo(f"{shape} {name} ...", err=True)
            chosen = cell_of(limit_gib or _free_gib())
            result = run_twice(chosen, minutes=minutes)
            if "failed" in result:
                click.echo(f"{shape} {name} failed: {result['failed']}", err=True)
            rows.append((shape, name, result))
        if shape == LARGEST and not keep:
            shutil.rmtree(model)
    report = make_report(rows, empty_gib, lengths, typed_command("benchmarks.memory"))
    click.echo(write_report(report, reports, lambda path: plot(path, rows, empty_gib)))


def _free_gib() -> float | None:
    """What a cell may take; no limit where CUDA's mappings would count, or that is no Linux."""
    import psutil
    import torch

    from benchmarks.resident import resident
    from lora_sku.memory import GIB

    if torch.cuda.is_available() or resident() is None:
        return None
    return float(psutil.virtual_memory().available / GIB - 1)


def _model(shape: str, models: Path) -> str:
    """Where the model of a shape is; a random one is written if it is not there whole."""
    from benchmarks.shapes import SHAPES, is_whole, write_model
    from lora_sku.recipe_file import load_recipe

    if shape == DEMO:
        return load_recipe("smollm2-135m").base_model.path
    folder = models / f"llama-{shape}"
    if not is_whole(folder):
        click.echo(f"writing {folder}, {SHAPES[shape].parameters * 2 / 1e9:.1f} GB ...", err=True)
        write_model(folder, SHAPES[shape])
    return str(folder)


if __name__ == "__main__":
    run_command(main)
