"""The commands that tell what runs have found: they read run directories and load no model."""

from pathlib import Path

import click

from lora_sku.cli_options import refuse_existing


@click.command()
@click.argument("folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path), help="File to write [default: RUN/report.html]."
)
@click.option("--overwrite", is_flag=True, help="Replace the file that --output names.")
def report(folder: Path, output: Path | None, overwrite: bool) -> None:
    """Build report.html of RUN, a run directory, again; needs no model and no network."""
    from lora_sku.report import write_report

    if output is not None:
        refuse_existing(output, overwrite=overwrite)
    click.echo(f"Report: {write_report(folder, output)}")


@click.command()
@click.argument(
    "folders", metavar="RUN RUN...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("compare.html"),
    show_default=True,
    help="File to write.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
def compare(folders: tuple[Path, ...], output: Path, overwrite: bool) -> None:
    """Set two or more run directories side by side: settings that differ, figures, trade-offs."""
    from lora_sku.console import print_table
    from lora_sku.report import compare_runs, write_comparison

    comparison = compare_runs(folders)
    refuse_existing(output, overwrite=overwrite)
    write_comparison(comparison, output)
    # Folder names and settings are the user's: neither markup nor a terminal's commands.
    header = ("", *map(_plain, comparison.names))
    for title, rows in comparison.tables():
        print_table(title, header, [tuple(map(_plain, row)) for row in rows])
    if not comparison.settings:
        click.echo("No setting differs.")
    for warning in comparison.warnings:
        click.echo(f"Note: {warning}")
    click.echo(f"Comparison: {output}")


def _plain(text: str) -> str:
    from rich.markup import escape

    from lora_sku.report.text import visible

    return escape(visible(text))
