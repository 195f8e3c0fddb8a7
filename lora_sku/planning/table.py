"""A forecast for a person."""

from collections.abc import Sequence

import click

from lora_sku.console import print_table
from lora_sku.memory import GIB
from lora_sku.planning.cards import USABLE_SHARE, Forecast, Knob
from lora_sku.planning.plan import Plan


def print_forecast(told: Forecast) -> None:
    """The table of all stages, the conditions, the cards that fit, and what to turn."""
    planned = told.plan
    names = dict.fromkeys(line.name for stage in planned.stages for line in stage.lines)
    rows = [
        (name, *(_gib(stage.bytes_of(name)) for stage in planned.stages))
        for name in names
        if any(stage.bytes_of(name) for stage in planned.stages)
    ]
    rows.append(("total", *(_gib(stage.total) for stage in planned.stages)))
    rows.append(("at its peak in", *(stage.moment for stage in planned.stages)))
    header = ("GiB", *(stage.stage for stage in planned.stages))
    print_table(f"Planned peak memory of {planned.model}", header, rows)
    click.echo(_conditions(planned))
    if told.cards:
        fitting = [f"{size} GB" for size, ok in told.cards.items() if ok]
        smaller = told.least.micro_batch < planned.micro_batch
        how = f", with as few as {_prompts(told.least.micro_batch)} at once" if smaller else ""
        less = f"each less {1 - USABLE_SHARE:.0%} for firmware and driver"
        click.echo(f"Cards that it fits on{how}, {less}: {', '.join(fitting) or 'none'}.")
    if told.gpu_memory is not None:
        verdict = "is enough" if told.enough else "is NOT enough"
        click.echo(f"{_gib(told.gpu_memory)} GiB {verdict}.")
    for stage in planned.stages:
        _print_knobs(stage.stage, [knob for knob in told.knobs if knob.stage == stage.stage])
    if told.together is not None and told.gpu_memory is not None:
        enough = told.together <= told.gpu_memory
        verdict = "enough" if enough else "not enough either: choose a smaller base model"
        click.echo(f"All of them together: {_gib(told.together)} GiB, which is {verdict}.")


def _print_knobs(stage: str, knobs: Sequence[Knob]) -> None:
    if knobs:
        click.echo(f"Each of these alone lowers the peak of {stage}:")
    for knob in knobs:
        click.echo(f"  --set {knob.setting}   by {_gib(knob.saved)} to {_gib(knob.total)} GiB")


def _conditions(planned: Plan) -> str:
    bound = (
        "every prompt and answer as long as the recipe allows, so this is an upper bound"
        if planned.upper_bound
        else "as --tokens says"
    )
    place = "" if planned.device == "cuda" else ", on top of an empty process"
    return (
        f"On {planned.device}{place}, with {_prompts(planned.micro_batch)} and"
        f" {planned.tokens:,} tokens in the model at once: {bound}."
    )


def _prompts(number: int) -> str:
    return f"{number} forget prompt{'s' if number > 1 else ''}"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"
