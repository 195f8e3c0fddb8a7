"""`python -m benchmarks.confirm`: a trade-off benchmark's adapters on prompts it has not scored."""

from collections.abc import Sequence
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
@click.option(
    "--of",
    "source",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/tradeoff"),
    show_default=True,
    help="What benchmarks.tradeoff was given as --out.",
)
@click.option("--only", multiple=True, help="Score and report these methods only.")
@click.option("--prompts", type=COUNT, default=100, show_default=True, help="Of each kind.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/confirm"),
    show_default=True,
    help="Keeps every scored unit; what is there is not scored again.",
)
@click.option(
    "--multiple",
    "multiples",
    type=click.FloatRange(min=0, min_open=True),
    multiple=True,
    help="Score them with so many times the strength that was chosen, too: a frontier.",
)
@rejudge_option
@recipe_option
@set_option
@reports_option
def main(
    data: Path,
    source: Path,
    only: tuple[str, ...],
    prompts: int,
    out: Path,
    multiples: tuple[float, ...],
    rejudge: bool,
    recipe_name: str,
    overrides: tuple[str, ...],
    reports: Path,
) -> None:
    """Score every kept adapter as it was chosen, train nothing, and write a report.

    --recipe and --set as benchmarks.tradeoff was given them.
    """
    from benchmarks.plots import require_matplotlib
    from lora_sku.quiet import quiet_models

    quiet_models()
    from benchmarks.report import typed_command, write_report
    from benchmarks.tradeoff_confirmation import Confirmation, with_multiples
    from benchmarks.tradeoff_plot import plot
    from benchmarks.tradeoff_table import make_report
    from benchmarks.unlearning_methods import unlearning_methods
    from lora_sku.recipe_file import load_recipe
    from lora_sku.sweep import Budget

    require_matplotlib()
    recipe = load_recipe(recipe_name, overrides)
    confirmation = Confirmation(recipe, data, source, prompts, out, rejudge=rejudge)
    sizes = confirmation.sizes
    methods = unlearning_methods(recipe.losses, prompts=sizes.prompts, responses=sizes.responses)
    refuse_unknown(only, methods, "method", "--only")
    chosen = {name: of for name, of in methods.items() if not only or name in only}
    wanted = confirmation.wanted(chosen)
    units = []
    for multiple in (1.0, *multiples):
        for unit in wanted:
            units.append(confirmation.score(unit, multiple))
            click.echo(f"{units[-1].method} {unit.seed}: {units[-1].seconds:.0f} s", err=True)
    report = make_report(
        confirmation.base_scores,
        units,
        with_multiples(chosen, multiples),
        None,
        budget=Budget(recipe.negation.retain_budget, recipe.negation.kl_budget),
        judge=confirmation.rulers.judge_settings,
        settings=confirmation.store.settings,
        command=typed_command("benchmarks.confirm"),
        name="tradeoff-confirmed",
        title="Forgetting against cost, on other prompts",
        prompts=_told(confirmation.prompts),
    )
    base = confirmation.base_scores
    click.echo(write_report(report, reports, lambda path: plot(path, base, units)))


def _told(prompts: Sequence[int]) -> str:
    harmful, normal = prompts
    return (
        "The adapters of benchmarks.tradeoff, as they were chosen there, on prompts that it has"
        f" not scored: {harmful} more of PKU-SafeRLHF's test prompts and {normal} more of the"
        " retain set's unseen split. The facts and general texts are the same ones. Selectivity is"
        " taken in float32 with the base's weights as they are: of a delta that hardly moves the"
        " answers bf16 tells its own rounding."
    )


if __name__ == "__main__":
    run_command(main)
