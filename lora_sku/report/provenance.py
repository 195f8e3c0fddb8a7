"""What a reader needs to make the same run again."""

import shlex
from dataclasses import dataclass

from lora_sku.recipe import SourceSection, TrainingSection
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
        "Stage 1": stage_1(recipe.training),
        "Negation": negation(run),
        "Seeds": f"training {environment.seed}, split of the data {recipe.data.seed}",
        "Device": f"{environment.device}, {environment.threads} threads",
        "Platform": f"{environment.platform}, Python {environment.python}",
        "lora-sku": environment.lora_sku,
    }
    return found | dict(environment.packages)


def stage_1(training: TrainingSection) -> str:
    """How the harmful adapter came about."""
    return f"{training.max_steps} steps, learning rate {training.learning_rate:g}"


def negation(run: RunEvidence) -> str:
    """The strength that was used, or that it is not chosen yet."""
    strength = run.recipe.negation.strength
    if strength != "auto":
        return f"strength {short(strength)}"
    if run.sweep is None:
        return "strength not chosen yet"
    return f"strength {short(run.sweep.choice.strength)} (chosen by the sweep)"


def _source(section: SourceSection) -> str:
    parts = [section.path, section.name, section.split]
    told = ", ".join(part for part in parts if part)
    return f"{told} (revision {section.revision})" if section.revision else told
