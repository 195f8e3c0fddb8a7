"""How a benchmark's command ends: a user's mistake is one paragraph without a traceback."""

import sys

import click

from lora_sku.errors import UserError


def run_command(command: click.Command) -> None:
    """Run it with this process's arguments; exit code 2 after a `UserError`."""
    try:
        command()
    except UserError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
