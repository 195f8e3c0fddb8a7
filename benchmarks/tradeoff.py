"""`python -m benchmarks.tradeoff`: ways of unlearning on one base, forgetting against cost."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.command import refuse_unknown, run_command
from benchmarks.tradeoff_options import (
    COUNT,
    data_option,
    recipe_option,
    reports_option,
    set_option,
)
from lora_sku.errors import UserError

if TYPE_CHECKING:
    from benchmarks.tradeoff_bench import Bench
    from benchmarks.tradeoff_units import Unit
    from benchmarks.unlearning_methods import UnlearningMethod


@click.command()
@data_option
@click.option("--seeds", type=COUNT, default=3, show_default=True, help="Trainings of a method.")
@click.option("--only", multiple=True, help="Run and report these methods only.")
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
@click.option("--force", is_flag=True, help="Compute the units again that --out has.")
@click.option("--finished", is_flag=True, help="Compute nothing: report the units that are there.")
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
    out: Path,
    known: tuple[Path, ...],
    force: bool,
    finished: bool,
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
    from benchmarks.quiet import quiet_libraries

    quiet_libraries()
    from benchmarks.report import typed_command, write_report
    from benchmarks.tradeoff_bench import Bench, Sizes
    from benchmarks.tradeoff_table import make_report, plot
    from benchmarks.tradeoff_transfer import transfer as transferred
    from benchmarks.unlearning_methods import unlearning_methods
    from lora_sku.recipe_file import load_recipe
    from lora_sku.sweep import Budget

    require_matplotlib()
    if force and finished:
        raise click.UsageError("--force computes everything, --finished nothing.")
    recipe = load_recipe(recipe_name, overrides)
    methods = unlearning_methods(recipe.losses, prompts=prompts, responses=responses)
    chosen = _chosen(methods, only)
    sizes = Sizes(
        steps,
        prompts,
        responses,
        validation_prompts,
        unseen_prompts,
        new_tokens,
        learning_rates or (recipe.training.learning_rate,),
    )
    bench = Bench(recipe, data, sizes, out, known)
    wanted = _wanted(bench, chosen, seeds, finished=finished)
    units = list(_run(bench, chosen, wanted, force=force))
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


def _chosen(
    methods: Mapping[str, "UnlearningMethod"], only: Sequence[str]
) -> dict[str, "UnlearningMethod"]:
    refuse_unknown(only, methods, "method", "--only")
    return {name: method for name, method in methods.items() if not only or name in only}


def _wanted(
    bench: "Bench", methods: Mapping[str, "UnlearningMethod"], seeds: int, *, finished: bool
) -> list[tuple[str, int]]:
    """(method, seed) of all units, in the order of the methods; or of the finished ones."""
    first = bench.recipe.training.seed
    wanted = [
        (name, first + number)
        for name, method in methods.items()
        for number in range(seeds if method.every_seed else 1)
    ]
    if finished:
        wanted = [unit for unit in wanted if bench.store.read(*unit) is not None]
        if not wanted:
            raise UserError(
                "no unit is finished here",
                where=str(bench.store.folder),
                remedy="Leave --finished out, or name the folder that has some by --out.",
            )
    return wanted


def _run(
    bench: "Bench",
    methods: Mapping[str, "UnlearningMethod"],
    wanted: Sequence[tuple[str, int]],
    *,
    force: bool,
) -> Iterator["Unit"]:
    """All wanted units in their order; those that are kept are read."""
    open_units = [unit for unit in wanted if force or bench.store.read(*unit) is None]
    click.echo(f"{len(open_units)} of {len(wanted)} units to compute", err=True)
    computed = 0
    for name, seed in wanted:
        if (name, seed) in open_units:
            unit = bench.run(name, methods[name], seed)
            computed += 1
            click.echo(_told(unit, len(open_units) - computed), err=True)
        kept = bench.store.read(name, seed)
        assert kept is not None, "it was just written"
        yield kept


def _told(unit: "Unit", left: int) -> str:
    trial = unit.trial
    found = f"strength {trial.strength:.3g}" if trial.strength is not None else str(trial.failed)
    rest = f"; {left} more at this pace: {left * unit.seconds / 3600:.1f} h" if left else ""
    return f"{unit.method} {unit.seed}: {found}, {unit.seconds:.0f} s{rest}"


if __name__ == "__main__":
    run_command(main)
