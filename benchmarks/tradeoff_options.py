"""What the trade-off benchmark and its confirmation are told alike."""

from pathlib import Path

import click

from benchmarks.report import REPORTS

COUNT = click.IntRange(min=1)

data_option = click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with pku_saferlhf_train.jsonl, pku_saferlhf_test.jsonl and TruthfulQA.csv.",
)
recipe_option = click.option("--recipe", "recipe_name", default="smollm2-135m", show_default=True)
set_option = click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE")
reports_option = click.option(
    "--reports", type=click.Path(path_type=Path), default=REPORTS, show_default=False
)
