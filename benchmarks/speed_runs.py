"""What the speed benchmark runs: the recipe's data, equal results in fp32, a grid, the peaks."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cell import Cell
from benchmarks.pairs import Agreement, SideBySide, Timing, without_preservation
from benchmarks.processes import empty_process_gib, run_cell
from benchmarks.setup import Setup
from benchmarks.workload import Lengths, id_pairs, recipe_draws
from lora_sku.errors import UserError
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import dump_recipe
from lora_sku.storage import write_text

# A quarter of the steps is enough to tell the forget part's share.
_FORGET_SHARE = 4


@dataclass(frozen=True)
class Headline:
    """On the recipe's own data.

    Attributes:
        timings: Of whole steps.
        forget_only: The same with preservation weighing 0.
        agreement: After all of the steps, in the recipe's compute dtype.
        dtype: That dtype.
    """

    timings: Sequence[Timing]
    forget_only: Sequence[Timing]
    agreement: Agreement
    dtype: str


def headline(recipe: Recipe, *, steps: int, warm_up: int) -> Headline:
    """Both methods on the recipe's first pairs."""
    setup = Setup.of(recipe)
    with _on_recipe(setup, recipe, steps + warm_up) as pair:
        timings = pair.run()
        agreement = pair.agreement(timings)
    few = warm_up + max(2, steps // _FORGET_SHARE)
    with _on_recipe(without_preservation(setup), recipe, few) as pair:
        forget_only = pair.run(warm_up=warm_up)
    timed = [timing for timing in timings if timing.step >= warm_up]
    return Headline(timed, forget_only, agreement, str(setup.dtype).removeprefix("torch."))


def equality(recipe: Recipe, *, steps: int) -> Agreement:
    """How well both agree where rounding is no excuse: computed in fp32."""
    base_model = recipe.base_model.model_copy(update={"compute_dtype": "float32"})
    setup = replace(Setup.of(recipe), base_model=base_model)
    with _on_recipe(setup, recipe, steps) as pair:
        return pair.agreement(pair.run())


def point(recipe: Recipe, lengths: Lengths, *, steps: int, warm_up: int) -> list[Timing]:
    """Both methods on random token ids of the given lengths, on the recipe's model."""
    setup = Setup.of(recipe)
    training = setup.training.model_copy(update={"per_device_train_batch_size": lengths.prompts})
    setup = replace(setup, training=training)
    source = partial(id_pairs, setup, lengths, steps + warm_up)
    with SideBySide(setup, source, steps + warm_up) as pair:
        return pair.run(warm_up=warm_up)


def _on_recipe(setup: Setup, recipe: Recipe, steps: int) -> SideBySide:
    """Both methods on the recipe's first pairs."""
    return SideBySide(setup, partial(recipe_draws, recipe, steps), steps)


def peaks(recipe: Recipe, *, steps: int) -> dict[str, Any]:
    """Peak memory of both on the recipe's data, each in its own process.

    Raises:
        UserError: if one of them fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        write_text(file, dump_recipe(recipe))
        cells = {
            "ours": Cell("ours", recipe=str(file), steps=steps),
            "textbook": Cell("textbook", recipe=str(file), steps=steps),
        }
        results = {name: run_cell(cell) for name, cell in cells.items()}
    for name, result in results.items():
        if "failed" in result:
            raise UserError(f"the process of {name} failed: {result['failed']}")
        result["cell"]["recipe"] = file.name  # the folder is gone, and was this machine's own
    return {"empty_process_gib": empty_process_gib(), **results}
