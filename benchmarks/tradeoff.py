"""`python -m benchmarks.tradeoff`: ways of unlearning on one base, forgetting against cost."""

from pathlib import Path

import click

from benchmarks.command import refuse_unknown, run_command
from benchmarks.tradeoff_options import (
    COUNT,
    data_option,
    recipe_option,
    rejudge_option,
    reports_option,
    set_option,
)


@click.command()
@data_option
@click.option("--seeds", type=COUNT, default=3, show_default=True, help="Trainings of a method.")
@click.option(
    "--only",
    multiple=True,
    help="Run and report these methods only, some of which run when they are named alone.",
)
@click.option(
    "--jobs", type=COUNT, default=1, show_default=True, help="Processes that share the units."
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/tradeoff"),
    show_default=True,
    help="Keeps every finished unit; what is there is not computed again.",
)
@click.option(
    "--known",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An earlier report's .json: its units are not computed again.",
)
@click.option(
    "--force", is_flag=True, help="Drop the wanted units that --out has, and compute them again."
)
@click.option("--finished", is_flag=True, help="Compute nothing: report the units that are there.")
@rejudge_option
@click.option("--transfer", is_flag=True, help="Try our adapter on int8 and unquantized.")
@recipe_option
@set_option
@click.option("--steps", type=COUNT, default=60, show_default=True, help="Of each training.")
@click.option("--prompts", type=COUNT, default=2, show_default=True, help="Of a step of SKU.")
@click.option("--responses", type=COUNT, default=5, show_default=True, help="k.")
@click.option("--validation-prompts", type=COUNT, default=40, show_default=True)
@click.option("--unseen-prompts", type=COUNT, default=60, show_default=True)
@click.option("--new-tokens", type=COUNT, default=40, show_default=True, help="Of an answer.")
@click.option(
    "--learning-rate",
    "learning_rates",
    type=float,
    multiple=True,
    help="Tried for every method; the best on validation counts [default: the recipe's].",
)
@reports_option
def main(
    data: Path,
    seeds: int,
    only: tuple[str, ...],
    jobs: int,
    out: Path,
    known: tuple[Path, ...],
    force: bool,
    finished: bool,
    rejudge: bool,
    transfer: bool,
    recipe_name: str,
    overrides: tuple[str, ...],
    steps: int,
    prompts: int,
    responses: int,
    validation_prompts: int,
    unseen_prompts: int,
    new_tokens: int,
    learning_rates: tuple[float, ...],
    reports: Path,
) -> None:
    """Train every method, choose its strength within the same budget, and write a report."""
    from benchmarks.plots import require_matplotlib
    from benchmarks.tradeoff_work import Order, compute, finished_units, share_cores, wanted_units
    from lora_sku.quiet import quiet_models

    share_cores(jobs)
    quiet_models()
    from benchmarks.report import typed_command, write_report
    from benchmarks.tradeoff_bench import Sizes
    from benchmarks.tradeoff_plot import plot
    from benchmarks.tradeoff_table import make_report
    from benchmarks.tradeoff_transfer import transfer as transferred
    from benchmarks.unlearning_methods import EXTRAS
    from lora_sku.recipe_file import load_recipe
    from lora_sku.sweep import Budget

    require_matplotlib()
    if force and finished:
        raise click.UsageError("--force computes everything, --finished nothing.")
    recipe = load_recipe(recipe_name, overrides)
    sizes = Sizes(
        steps,
        prompts,
        responses,
        validation_prompts,
        unseen_prompts,
        new_tokens,
        learning_rates or (recipe.training.learning_rate,),
    )
    order = Order(recipe, data, sizes, out, known)
    methods = order.methods()
    refuse_unknown(only, methods, "method", "--only")
    chosen = {
        name: method
        for name, method in methods.items()
        if (name in only if only else finished or name not in EXTRAS)
    }
    bench = order.bench(rejudge=rejudge)
    wanted = wanted_units(chosen, recipe.training.seed, seeds)
    if finished:
        wanted = finished_units(bench, wanted)
    if force:
        for unit in wanted:
            bench.store.forget(*unit)
    units = compute(order, bench, wanted, jobs=jobs)
    report = make_report(
        bench.base_scores,
        units,
        chosen,
        transferred(bench, units) if transfer else None,
        budget=Budget(recipe.negation.retain_budget, recipe.negation.kl_budget),
        judge=bench.rulers.judge_settings,
        settings=bench.store.settings,
        command=typed_command("benchmarks.tradeoff"),
    )
    click.echo(write_report(report, reports, lambda path: plot(path, bench.base_scores, units)))


if __name__ == "__main__":
    run_command(main)
