"""`python -m benchmarks.planner`: planned peaks beside measured and published ones."""

from pathlib import Path

import click

from benchmarks.command import run_command
from benchmarks.report import REPORTS
from lora_sku.errors import UserError


@click.command()
@click.option(
    "--measured",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    multiple=True,
    help="Raw figures of benchmarks.memory [default: all *-memory*.json in the reports' folder].",
)
@click.option("--reports", type=click.Path(path_type=Path), default=REPORTS, show_default=False)
def main(measured: tuple[Path, ...], reports: Path) -> None:
    """Plan every cell that was measured, what others published, and models up to 70B."""
    from lora_sku.quiet import quiet_models

    quiet_models()
    from benchmarks.planner_table import make_report, measured_rows, plot, published_rows
    from benchmarks.plots import require_matplotlib
    from benchmarks.report import require_folder, typed_command, write_report

    require_matplotlib()
    require_folder(reports)
    files = measured or tuple(sorted(reports.glob("*-memory*.json"), key=lambda file: file.stem))
    if not files:
        raise UserError(
            "there are no measured peaks to compare with",
            where=str(reports),
            remedy="Run python -m benchmarks.memory first, or name its .json by --measured.",
        )
    # Where two reports have the same cell, the newer counts.
    newest = {(row.name, row.on_cuda): row for file in files for row in measured_rows(file)}
    rows = list(newest.values())
    report = make_report(rows, published_rows(), typed_command("benchmarks.planner"))
    click.echo(write_report(report, reports, lambda path: plot(path, rows)))


if __name__ == "__main__":
    run_command(main)
