"""What a run does with a plan: choose the micro-batch, and refuse what cannot fit."""

import psutil
import torch

from lora_sku.errors import PlanError
from lora_sku.memory import GIB
from lora_sku.planning.cards import knobs
from lora_sku.planning.plan import Plan
from lora_sku.planning.recipe_plan import Device, largest_micro_batch, plan
from lora_sku.recipe import Recipe


def free_bytes(device: torch.device) -> int:
    """Memory that is free now: of the card, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def plan_run(recipe: Recipe, *, device: Device, free: int) -> Plan:
    """The plan that a run follows, with the micro-batch that it begins with.

    Args:
        recipe: The run.
        device: Where it runs.
        free: Bytes that are free there.
    """
    prompts = None
    if recipe.training.micro_batch_size == "auto":
        prompts = largest_micro_batch(recipe, free, device=device)
    return plan(recipe, device=device, micro_batch=prompts)


def refuse_too_large(recipe: Recipe, *, device: Device, free: int) -> None:
    """Refuse what cannot fit, and nothing that might: real texts are shorter than the limits.

    Raises:
        PlanError: if not even one prompt at a time with the shortest texts would fit.
    """
    least = plan(recipe, device=device, micro_batch=1, tokens=1).stage("acquire").total
    if least > free:
        raise PlanError(
            f"stage 1 needs at least {least / GIB:.1f} GiB, however short the texts are, but"
            f" {free / GIB:.1f} GiB are free",
            where=recipe.base_model.path,
            remedy=f"{_advice(recipe, device)} `lora-sku plan` shows the parts.",
        )


def warning(planned: Plan, recipe: Recipe, *, device: Device, free: int) -> str | None:
    """What to tell before a run whose longest texts may not fit; None if they do."""
    if planned.total <= free:
        return None
    return (
        "With the longest texts that the recipe allows this run would need"
        f" {planned.total / GIB:.1f} GiB ({planned.peak.stage}), and {free / GIB:.1f} GiB are free."
        f" A step that runs out of memory is repeated with fewer prompts. {_advice(recipe, device)}"
    )


def _advice(recipe: Recipe, device: Device) -> str:
    found = knobs(recipe, device=device)
    if not found:
        return "Use a smaller model."
    best = "; ".join(f"{knob.setting} saves {knob.saved / GIB:.1f} GiB" for knob in found[:3])
    return f"What would help: {best}."
