"""Which cards a plan fits on, and what to turn where it does not fit."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lora_sku.errors import RecipeError
from lora_sku.memory import GIB
from lora_sku.planning.plan import Plan
from lora_sku.planning.recipe_plan import Device, largest_micro_batch, plan, turned
from lora_sku.recipe import Recipe

CARDS_GB = (6, 8, 10, 12, 16, 24, 48, 80)
# torch sees 11.76 GiB of a 12 GB card, 23.65 of 24, 79.2 of 80: firmware and error correction take
# 1 to 2 %. The driver and a desktop take some hundred MB more.
USABLE_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting that lowers a stage's peak.

    Attributes:
        setting: As --set takes it.
        stage: Which stage's.
        saved: Bytes that it lowers that peak by.
        total: The stage's peak with it alone.
    """

    setting: str
    stage: str
    saved: int
    total: int

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Forecast:
    """A plan and what follows from it.

    Attributes:
        plan: The predicted peaks.
        least: The same with the smallest micro-batch that the recipe allows: 1 prompt for auto.
        gpu_memory: Bytes that are free on the card, if somebody said.
        knobs: What to turn, if these are not enough.
        together: Bytes of the peak with all of them turned; None while nothing has to be.
    """

    plan: Plan
    least: Plan
    gpu_memory: int | None = None
    knobs: tuple[Knob, ...] = ()
    together: int | None = None

    @property
    def enough(self) -> bool | None:
        """Whether the plan fits into ``gpu_memory``; None if nobody said."""
        return None if self.gpu_memory is None else self.plan.total <= self.gpu_memory

    @property
    def cards(self) -> dict[int, bool]:
        """Card size in GB -> whether a run fits on it; empty where no card is planned for."""
        return fits(self.least) if self.plan.device == "cuda" else {}

    def as_dict(self) -> dict[str, Any]:
        """For JSON: stable keys, bytes."""
        return self.plan.as_dict() | {
            "cards": {str(size): ok for size, ok in self.cards.items()},
            "gpu_memory": self.gpu_memory,
            "enough": self.enough,
            "knobs": [knob.as_dict() for knob in self.knobs],
            "together": self.together,
        }


def forecast(
    recipe: Recipe,
    *,
    gpu_memory: int | None = None,
    tokens: int | None = None,
    device: Device | None = None,
) -> Forecast:
    """Plan a recipe, with the micro-batch that a run on such a card would take.

    Args:
        recipe: The run.
        gpu_memory: Bytes that are free on the card; plans for CUDA.
        tokens: As in `plan`.
        device: As in `plan`.

    Raises:
        UserError: as `plan`, for ``gpu_memory`` together with the device "cpu", and for fewer
            ``tokens`` than the prompts and answers have at least.
    """
    automatic = recipe.training.micro_batch_size == "auto" and tokens is None
    smallest = turned(recipe, "training", {"micro_batch_size": 1}) if automatic else recipe
    if gpu_memory is None:
        least = plan(smallest, tokens=tokens, device=device)
        planned = plan(recipe, tokens=tokens, device=device)
        _refuse_too_few(tokens, planned)
        return Forecast(planned, least)
    if device == "cpu":
        raise RecipeError(
            "--gpu-memory is the memory of a card, but the plan is for a CPU",
            remedy="Leave out --gpu-memory or --device cpu.",
        )
    if automatic:
        prompts = largest_micro_batch(recipe, gpu_memory, device="cuda")
        recipe = turned(recipe, "training", {"micro_batch_size": prompts})
    planned = plan(recipe, tokens=tokens, device="cuda")
    _refuse_too_few(tokens, planned)
    too_large = {stage.stage for stage in planned.stages if stage.total > gpu_memory}
    least = plan(smallest, tokens=tokens, device="cuda")
    if not too_large:
        return Forecast(planned, least, gpu_memory)
    found = knobs(recipe, tokens=tokens, device="cuda")
    helping = tuple(knob for knob in found if knob.stage in too_large)
    together = plan(
        _all_turned(recipe, fixed_tokens=tokens is not None), tokens=tokens, device="cuda"
    )
    return Forecast(planned, least, gpu_memory, helping, together.total)


def _refuse_too_few(tokens: int | None, planned: Plan) -> None:
    """Fewer tokens than a prompt and its answers have were planned as those."""
    if tokens is not None and planned.tokens > tokens:
        raise RecipeError(
            f"a step of this recipe has at least {planned.tokens} tokens",
            where="--tokens",
            remedy=f"Name {planned.tokens} or more.",
        )


def fits(planned: Plan) -> dict[int, bool]:
    """Card size in GB -> whether the plan fits on an otherwise empty one."""
    return {size: planned.total <= size * GIB * USABLE_SHARE for size in CARDS_GB}


def knobs(
    recipe: Recipe, *, device: Device | None = None, tokens: int | None = None
) -> tuple[Knob, ...]:
    """What each setting would save in each stage, turned alone and planned again; largest first.

    With ``tokens`` the tokens in flight stay what they are, so the knobs that lower them are left
    out.
    """
    before = plan(recipe, device=device, tokens=tokens)
    found = []
    for section, values in _turns(recipe, fixed_tokens=tokens is not None):
        after = plan(turned(recipe, section, values), device=device, tokens=tokens)
        for old, new in zip(before.stages, after.stages, strict=True):
            if new.total < old.total:
                setting = _written(section, values)
                found.append(Knob(setting, old.stage, old.total - new.total, new.total))
    return tuple(sorted(found, key=lambda knob: -knob.saved))


def _all_turned(recipe: Recipe, *, fixed_tokens: bool) -> Recipe:
    for section, values in _turns(recipe, fixed_tokens=fixed_tokens):
        recipe = turned(recipe, section, values)
    return recipe


def _turns(recipe: Recipe, *, fixed_tokens: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each knob once, turned to the next sensible setting."""
    data, losses = recipe.data, recipe.losses
    yield "training", {"gradient_checkpointing": True}
    yield "training", {"optim": "auto"}
    if recipe.base_model.quantization == "none":
        yield "base_model", {"quantization": "int8"}
    yield "base_model", {"quantization": "nf4"}
    yield "adapter", {"r": max(1, recipe.adapter.r // 2)}
    rows = recipe.evaluation.per_device_eval_batch_size
    yield "evaluation", {"per_device_eval_batch_size": max(1, rows // 2)}
    if fixed_tokens:
        return
    yield "training", {"micro_batch_size": 1}
    yield "data", {"max_answer_tokens": max(2, data.max_answer_tokens // 2)}
    for term, key, number in (
        ("random_disassociation", "responses", losses.random_disassociation.responses),
        ("preservation_divergence", "prompts", losses.preservation_divergence.prompts),
    ):
        yield "losses", {term: {key: max(1, number // 2)}}


def _written(section: str, values: Mapping[str, Any]) -> str:
    """``section.key=value`` down to the innermost key."""
    (key, value), *_ = values.items()
    if isinstance(value, Mapping):
        return _written(f"{section}.{key}", value)
    return f"{section}.{key}={str(value).lower() if isinstance(value, bool) else value}"
