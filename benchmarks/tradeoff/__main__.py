"""`python -m benchmarks.tradeoff`: every method on the same data, then the table."""

import shlex
import sys
from pathlib import Path

import click

from benchmarks.command import refuse_unknown, run_command
from benchmarks.machine import describe_machine
from benchmarks.report import REPORTS, Report, write_report
from benchmarks.tradeoff.methods import METHODS
from benchmarks.tradeoff.runs import figures, recipe_of, run_method
from benchmarks.tradeoff.table import Result, tables


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of PKU-SafeRLHF and TruthfulQA [default: the demo's data].",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the runs.")
@click.option("--method", "names", multiple=True, help="Only this one; may be repeated.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--set", "settings", multiple=True, help="KEY=VALUE of every method's recipe.")
@click.option("--report", is_flag=True, help="Write a dated report of the runs that are there.")
def main(
    data: Path | None,
    out: Path,
    names: tuple[str, ...],
    seeds: int,
    settings: tuple[str, ...],
    report: bool,
) -> None:
    """Run methods and print the table; finished runs in the folder are left as they are."""
    refuse_unknown(names, METHODS, "method", "--method")
    results = []
    for name in names or METHODS:
        folders = []
        for number in range(seeds):
            seed = 8888 + number
            folder = out / f"{name}-{seed}"
            run_method(METHODS[name], recipe_of(METHODS[name], data, seed, settings), folder)
            folders.append(folder)
        results.append(Result(name, [figures(folder) for folder in folders]))
    found = tables(results)
    for table in found:
        click.echo(table.render())
    if report:
        kind = "demo" if data is None else "pku"
        written = write_report(
            Report(
                name=f"tradeoff-{kind}",
                title=f"Unlearning methods on {kind} data",
                command=shlex.join(["python", "-m", "benchmarks.tradeoff", *sys.argv[1:]]),
                machine=describe_machine(),
                rulers=[f"{name}: {METHODS[name].told}" for name in names or METHODS],
                tables=found,
                raw={result.name: list(result.seeds) for result in results},
            ),
            REPORTS,
        )
        click.echo(f"Report: {written}")


if __name__ == "__main__":
    run_command(main)
