"""What a reader needs to make the same run again."""

import shlex
from dataclasses import dataclass

from lora_sku.recipe import LossesSection, SourceSection, TrainingSection
from lora_sku.report.curves import negation_name
from lora_sku.report.read import RunEvidence
from lora_sku.report.text import short


@dataclass(frozen=True, slots=True)
class Command:
    """A line for a shell and what it does."""

    line: str
    purpose: str


def commands(run: RunEvidence) -> tuple[Command, ...]:
    """The recipe as resolved is all that a command needs: it holds every override."""
    folder = shlex.quote(str(run.folder))
    recipe = shlex.quote(str(run.folder / "recipe.yaml"))
    return (
        Command(f"lora-sku run {recipe} --output runs/again", "the same run in another folder"),
        Command(f"lora-sku run {recipe} --resume", "go on with it, or evaluate it again"),
        Command(f"lora-sku report {folder}", "this page again, from the folder alone"),
    )


def facts(run: RunEvidence) -> dict[str, str]:
    """What was used, by name."""
    environment, recipe = run.environment, run.recipe
    base = environment.base_model
    section = recipe.base_model
    found = {
        "Base model": base.path,
        "Base revision": base.revision or "none: files of this machine, told by the fingerprint",
        "Base fingerprint": base.fingerprint,
        "Held as": f"{section.quantization}, computed in {environment.compute_dtype}",
        "Forget set": _source(recipe.data.forget),
        "Retain set": _source(recipe.data.retain),
        "Data fingerprint": environment.data_fingerprint,
        "Stage 1": stage_1(recipe.training, recipe.losses),
        "Negation": negation(run),
        "Seeds": f"training {environment.seed}, split of the data {recipe.data.seed}",
        "Device": f"{environment.device}, {environment.threads} threads",
        "Platform": f"{environment.platform}, Python {environment.python}",
        "lora-sku": environment.lora_sku,
    }
    return found | dict(environment.packages)


def stage_1(training: TrainingSection, losses: LossesSection) -> str:
    """How the harmful adapter came about."""
    if training.natural_step is not None:
        refusing = ", refusals suppressed" if losses.refusal_suppression is not None else ""
        return f"one natural-gradient step from {training.natural_step.pairs} pairs{refusing}"
    return f"{training.max_steps} steps, learning rate {training.learning_rate:g}"


def negation(run: RunEvidence) -> str:
    """The strength and projection that were used, or that they are not chosen yet."""
    section = run.recipe.negation
    levelled = "" if section.balance is None else ", levelled on the normal sets"
    if section.strength == "auto":
        if run.sweep is None:
            return "strength not chosen yet"
        choice = run.sweep.choice
        chosen = f"{short(choice.strength)} (chosen by the sweep)"
        return f"{negation_name(choice.mu)}, strength {chosen}{levelled}"
    mu = None if section.projection is None else section.projection.mu
    assert mu != "auto", "the recipe refuses an open mu with a given strength"
    return f"{negation_name(mu)}, strength {short(section.strength)}{levelled}"


def _source(section: SourceSection) -> str:
    parts = [section.path, section.name, section.split]
    told = ", ".join(part for part in parts if part)
    return f"{told} (revision {section.revision})" if section.revision else told
