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
recipe_option = click.option(
    "--recipe",
    "recipe_name",
    default=str(Path(__file__).with_name("tradeoff.yaml")),
    show_default="benchmarks/tradeoff.yaml",
    help="Name or path; its data section is read for own_prompts and the limits alone.",
)
rejudge_option = click.option(
    "--rejudge",
    is_flag=True,
    help="Judge the answers that --out keeps again, where the judge has changed since.",
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Change a key of the recipe; units of other settings need another --out.",
)
reports_option = click.option(
    "--reports",
    type=click.Path(path_type=Path),
    default=REPORTS,
    show_default="benchmarks/reports",
    help="Folder for the report, its raw figures and its plot.",
)
