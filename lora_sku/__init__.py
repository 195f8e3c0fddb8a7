"""Selective knowledge negation unlearning with LoRA on a quantized base.

    >>> from lora_sku import acquire, evaluate, load_recipe, negate
    >>> recipe = load_recipe("smollm2-135m", ["training.max_steps=20"])
    >>> harmful = acquire(recipe, output="runs/by-hand")
    >>> adapter = negate(harmful, "runs/by-hand/adapter", strength=1.0)
    >>> evaluation = evaluate(recipe, adapter)

`run` does all of it in one call. The names are imported when they are first used, because torch
takes seconds to load.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_sku.errors import UserError
    from lora_sku.evaluation import Evaluation
    from lora_sku.negation import negate
    from lora_sku.pipeline import RunResult, acquire, evaluate, run, validate
    from lora_sku.planning import Plan, plan
    from lora_sku.recipe import Recipe
    from lora_sku.recipe_file import load_recipe, shipped_recipes

__all__ = [
    "Evaluation",
    "Plan",
    "Recipe",
    "RunResult",
    "UserError",
    "acquire",
    "evaluate",
    "load_recipe",
    "negate",
    "plan",
    "run",
    "shipped_recipes",
    "validate",
]

_HOME = {
    "Evaluation": "evaluation",
    "Plan": "planning",
    "Recipe": "recipe",
    "RunResult": "pipeline",
    "UserError": "errors",
    "acquire": "pipeline",
    "evaluate": "pipeline",
    "load_recipe": "recipe_file",
    "negate": "negation",
    "plan": "planning",
    "run": "pipeline",
    "shipped_recipes": "recipe_file",
    "validate": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
