"""How a benchmark's command ends: a user's mistake is one paragraph without a traceback."""

import sys
from collections.abc import Iterable

import click

from lora_sku.errors import UserError
from lora_sku.threads import keep_few_kernels, wait_briefly


def run_command(command: click.Command) -> None:
    """Run it with this process's arguments; exit code 2 after a `UserError`."""
    wait_briefly()  # as lora-sku's own command
    keep_few_kernels()
    try:
        command()
    except UserError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)


def refuse_unknown(given: Iterable[str], known: Iterable[str], what: str, option: str) -> None:
    """Name what was mistyped, and the choice.

    Raises:
        UserError: if something ``given`` is not ``known``.
    """
    names = list(known)
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise UserError(
            f"no such {what}: {', '.join(unknown)}",
            where=option,
            remedy=f"Choose from {', '.join(names)}.",
        )
