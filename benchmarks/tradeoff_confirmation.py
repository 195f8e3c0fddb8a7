"""Scores kept adapters on prompts that their benchmark has not scored.

What is reported on may have been looked at while methods were made, even if no figure was chosen by
it. Here nothing could be: adapters and strengths are there before these prompts are first answered.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.tradeoff_bench import Sizes, bench_settings
from benchmarks.tradeoff_data import load_tradeoff_data
from benchmarks.tradeoff_scores import Rulers, Scores
from benchmarks.tradeoff_unit import Unit
from benchmarks.tradeoff_units import UnitStore, read_settings
from benchmarks.unlearning_methods import UnlearningMethod
from lora_sku.errors import UserError
from lora_sku.model import AdaptedModel, load_base
from lora_sku.recipe import Recipe
from lora_sku.stages import load_encoder

# Of the adapters on a model: the next one is loaded before the last one is taken off.
_NAMES = ("one", "other")


class Confirmation:
    """Two models that carry one adapter after another, the second one in float32 for KLs.

    Args:
        recipe: The benchmark's.
        data: Folder of the data.
        source: Folder that the benchmark keeps.
        prompts: Of each kind, at most.
        out: Folder that keeps what was scored here.
        rejudge: All answers that it keeps are judged again.

    Raises:
        UserError: if the benchmark had other settings, or ``out`` has, or no prompts are left.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        source: Path,
        prompts: int,
        out: Path,
        *,
        rejudge: bool = False,
    ) -> None:
        encoder = load_encoder(recipe)
        whole = load_tradeoff_data(data, encoder)
        self.sizes = sizes = Sizes.from_dict(read_settings(source)["sizes"])
        scored = whole.at_most(validation=sizes.validation, unseen=sizes.unseen)
        self.source = UnitStore(source, bench_settings(recipe, sizes, scored))
        fresh = whole.beyond(sizes.unseen, prompts)
        if not (fresh.forget.unseen and fresh.normal.unseen):
            raise UserError(
                f"the benchmark has scored {sizes.unseen} prompts of each kind, and none is left",
                where=str(data),
                remedy="Add prompts to the test file, or run it with fewer --unseen-prompts.",
            )
        self.prompts = len(fresh.forget.unseen), len(fresh.normal.unseen)
        self.store = UnitStore(
            out, {"of": self.source.settings, "prompts": prompts, "data": fresh.fingerprint()}
        )
        wide = recipe.base_model.model_copy(update={"compute_dtype": "float32"})
        first = self._kept()[0]
        self._models = [
            AdaptedModel.with_adapter_from(load_base(section), self._adapter(first), _NAMES[0])
            for section in (recipe.base_model, wide)
        ]
        self._carried = _NAMES[0]
        for model in self._models:
            model.peft_model.eval()
        settings = recipe.evaluation.model_copy(update={"max_new_tokens": sizes.new_tokens})
        self.rulers = Rulers(
            self._models[0],
            encoder,
            fresh,
            settings,
            self.store.read_base(),
            precise=self._models[1],
        )
        self.base_scores: Scores = self.store.keep_base(self.rulers, rejudge=rejudge)

    def _kept(self) -> list[Unit]:
        """Units of the benchmark whose adapter is there, in the order of their names."""
        units = [unit for unit in self.source.finished() if self._adapter(unit).exists()]
        if not units:
            raise UserError(
                "no finished unit here has its adapter",
                where=str(self.source.folder),
                remedy="Run benchmarks.tradeoff, or name the folder of its --out by --of.",
            )
        return units

    def wanted(self, methods: Mapping[str, UnlearningMethod]) -> list[Unit]:
        """The kept units of these methods, in the methods' order.

        Raises:
            UserError: if one was computed by another definition of its method.
        """
        order = list(methods)
        units = [unit for unit in self._kept() if unit.method in methods]
        for unit in units:
            unit.refuse_other(methods[unit.method].definition(), self.source.folder)
        return sorted(units, key=lambda unit: (order.index(unit.method), unit.seed))

    def score(self, unit: Unit, multiple: float = 1.0) -> Unit:
        """The same unit with scores of these prompts; remembered.

        Args:
            unit: One of `wanted`.
            multiple: Of the strength that it was chosen with; another one is another method.
        """
        name = scaled_name(unit.method, multiple)
        known = self.store.read(name, unit.seed)
        if known is not None and known.trials == unit.trials:  # else it was computed again
            return known
        began = time.perf_counter()
        self._carry(unit, multiple)
        answers = self.rulers.answers()
        scores = self.rulers.score(answers)
        seconds = time.perf_counter() - began
        found = replace(unit, method=name, seconds=seconds, scores=scores, answers=answers)
        self.store.write(found)
        return found

    @torch.no_grad()
    def _carry(self, unit: Unit, multiple: float) -> None:
        (name,) = {*_NAMES} - {self._carried}
        for model in self._models:
            model.load_adapter(self._adapter(unit), name)
            model.delete_adapter(self._carried)
            model.peft_model.eval()
            for key, factor in model.adapter_parameters().items():
                if ".lora_B." in key:
                    factor.mul_(multiple)
        self._carried = name

    def _adapter(self, unit: Unit) -> Path:
        return self.source.adapter(unit.method, unit.seed)


def with_multiples(
    methods: Mapping[str, UnlearningMethod], multiples: Sequence[float]
) -> dict[str, UnlearningMethod]:
    """The methods, and for the report what they are with other strengths."""
    others = {
        scaled_name(name, multiple): replace(
            method, meaning=f"{name} with {multiple:g} times the strength that was chosen"
        )
        for multiple in multiples
        for name, method in methods.items()
    }
    return {**methods, **others}


def scaled_name(method: str, multiple: float) -> str:
    """Of a method whose strength is another than the one that was chosen."""
    return method if multiple == 1 else f"{method}-x{multiple:g}"
