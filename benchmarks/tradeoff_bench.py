"""Runs one unit of the trade-off benchmark: train, choose on validation, score on unseen prompts.

The base, the data and the rulers are there once for all units; each unit starts the adapter anew.
"""

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from benchmarks.step_log import StepLog
from benchmarks.tradeoff_data import TradeoffData, load_tradeoff_data
from benchmarks.tradeoff_scores import Rulers, Scores
from benchmarks.tradeoff_sets import normal_sets, reported
from benchmarks.tradeoff_training import Stage1
from benchmarks.tradeoff_unit import Trial, Unit
from benchmarks.tradeoff_units import UnitStore
from benchmarks.unlearning_methods import RANK, UnlearningMethod
from lora_sku.adapters import read_lora, save_acquired, write_lora
from lora_sku.candidates import Candidates, candidates
from lora_sku.data import Row
from lora_sku.errors import AdapterError, TrainingError
from lora_sku.likelihood import AnswerScorer
from lora_sku.live_factors import LiveFactors
from lora_sku.model import ACQUIRED, AdaptedModel, load_base
from lora_sku.recipe import ProjectionSection, Recipe
from lora_sku.stages import load_encoder
from lora_sku.storage import atomic_folder
from lora_sku.sweep import Budget, sweep


@dataclass(frozen=True)
class Sizes:
    """How much is computed.

    Attributes:
        steps: Of each training.
        prompts: Forget prompts of a step of SKU.
        responses: k.
        validation: Prompts of each set that the strength is chosen by.
        unseen: Prompts of each set that are reported on.
        new_tokens: Bound of an answer.
        learning_rates: Each is trained with; the best on validation is reported.
    """

    steps: int
    prompts: int
    responses: int
    validation: int
    unseen: int
    new_tokens: int
    learning_rates: tuple[float, ...]

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` gave, from JSON."""
        return cls(**dict(kept) | {"learning_rates": tuple(kept["learning_rates"])})


class Bench:
    """All that the units share.

    Args:
        recipe: The base, the adapter, the optimizer, the budget and SKU's weights.
        data: Folder of the data.
        sizes: How much is computed.
        out: Folder that keeps the units.
        known: Earlier reports' raw figures, whose units are not computed again.
        rejudge: All kept answers are judged again.

    Raises:
        UserError: if something cannot be found, or ``out`` or a report has other settings,
            or was made where theta_o scores otherwise, or judged by another judge.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        sizes: Sizes,
        out: Path,
        known: Sequence[Path] = (),
        *,
        rejudge: bool = False,
    ) -> None:
        self.recipe, self.sizes = recipe, sizes
        self.encoder = load_encoder(recipe)
        whole = load_tradeoff_data(data, self.encoder)
        self.data = whole.at_most(validation=sizes.validation, unseen=sizes.unseen)
        self.store = UnitStore(out, bench_settings(recipe, sizes, self.data))
        reports = [self.store.known(report) for report in known]
        self.base = load_base(recipe.base_model)
        seed = recipe.training.seed
        # Each method says itself what rank it takes and what A is fixed to; the scaling is the
        # recipe's.
        alpha = recipe.adapter.lora_alpha * RANK / recipe.adapter.r
        changes = {"r": RANK, "lora_alpha": alpha, "subspace": None}
        adapter = recipe.adapter.model_copy(update=changes)
        self.model = AdaptedModel.with_new_adapter(self.base, adapter, seed=seed)
        self.model.peft_model.eval()
        size = recipe.evaluation.per_device_eval_batch_size

        def scorer(rows: Sequence[Row]) -> AnswerScorer:
            return AnswerScorer(self.model, self.encoder, rows, pairs_at_once=size)

        self._sets = normal_sets(
            recipe.data, recipe.evaluation, whole, self.data, self.model, self.encoder
        )
        self._stage_1 = Stage1(
            recipe, sizes.steps, self.model, self.encoder, self.data.forget.train, self._sets
        )
        self._forget = scorer(self.data.forget.validation)
        self._normal = {name: scorer(rows.validation) for name, rows in self._sets.spared.items()}
        self.rulers = Rulers(
            self.model,
            self.encoder,
            reported(self.data, whole),
            recipe.evaluation.model_copy(update={"max_new_tokens": sizes.new_tokens}),
            self.store.read_base(),
        )
        self.base_scores: Scores = self.store.keep_base(self.rulers, rejudge=rejudge)
        for report in reports:
            self.store.take(report, self.base_scores, self.rulers.judge_settings)

    def run(self, name: str, method: UnlearningMethod, seed: int) -> Unit:
        """Train with every learning rate, choose, score, keep."""
        began = time.perf_counter()
        rates = self.sizes.learning_rates[: 1 if method.natural else None]  # it has none
        trials: list[Trial] = []
        best: tuple[int, dict[str, Tensor]] | None = None
        for rate in rates:
            trial, factors = self._try(name, method, seed, rate)
            trials.append(trial)
            leading = -1.0 if best is None else trials[best[0]].validation_nll
            assert leading is not None, "only a trial within the budget leads"
            if trial.validation_nll is not None and trial.validation_nll > leading:
                best = len(trials) - 1, factors
        scores = answers = None
        if best is not None:
            parameters = self.model.adapter_parameters()
            with torch.no_grad():
                for key, factor in best[1].items():
                    parameters[key].copy_(factor)
            answers = self.rulers.answers()
            scores = self.rulers.score(answers)
            _save(self.model, self.store.adapter(name, seed))
        seconds = time.perf_counter() - began
        unit = Unit(
            *(name, seed, seconds, tuple(trials), best and best[0], scores, answers),
            definition=method.definition(),
        )
        self.store.write(unit)
        for rate in rates:
            shutil.rmtree(self.store.training(name, seed, rate), ignore_errors=True)
        return unit

    def _try(
        self, name: str, method: UnlearningMethod, seed: int, rate: float
    ) -> tuple[Trial, dict[str, Tensor]]:
        """A training, and the adapter's factors at the strength that was chosen."""
        steps = StepLog(self.store.training(name, seed, rate) / "steps.jsonl")
        try:
            self._stage_1.run(method, seed, rate, steps)
        except TrainingError as error:
            return Trial(rate, *steps.totals(), failed=f"training: {error.problem}"), {}
        live = LiveFactors(self.model, ACQUIRED, multiple=1.0 if method.negated else -1.0)
        found = self._candidates(method, live, seed)
        negation = self.recipe.negation
        budget = Budget(negation.retain_budget, negation.kl_budget)
        try:
            swept = sweep(live, found, self._forget, self._normal, budget=budget)
        except AdapterError as error:
            return Trial(rate, *steps.totals(), failed=error.problem), {}
        choice = swept.choice
        live.negate(choice.strength, found[choice.mu])
        factors = {
            key: parameter.detach().clone()
            for key, parameter in self.model.adapter_parameters().items()
        }
        trial = Trial(
            rate,
            *steps.totals(),
            strength=choice.strength,
            mu=choice.mu,
            validation_nll=choice.forget_nll,
            points=swept.as_dict()["points"],
        )
        return trial, factors

    def _candidates(self, method: UnlearningMethod, live: LiveFactors, seed: int) -> Candidates:
        if not method.projected:
            return {None: None}
        projection = self.recipe.negation.projection or ProjectionSection()
        return candidates(
            self.model,
            live,
            self.data.forget.train,
            self._sets.trained,
            self.encoder,
            projection.model_copy(update={"mu": "auto"}),
            rows=self.recipe.evaluation.per_device_eval_batch_size,
            seed=seed,
        )


def bench_settings(recipe: Recipe, sizes: Sizes, data: TradeoffData) -> Mapping[str, Any]:
    """All that a unit's figures depend on, the code apart.

    Args:
        recipe: As resolved.
        sizes: How much is computed.
        data: Cut to the sizes.
    """
    return {
        "sizes": asdict(sizes),
        "base_model": recipe.base_model.model_dump(),
        "adapter": recipe.adapter.model_dump(exclude={"r", "subspace"}),
        "losses": recipe.losses.model_dump(),
        "training": recipe.training.model_dump(),
        "negation": recipe.negation.model_dump(),
        "evaluation": recipe.evaluation.model_dump(),
        "own_prompts": recipe.data.own_prompts and recipe.data.own_prompts.model_dump(),
        "limits": [recipe.data.max_prompt_tokens, recipe.data.max_answer_tokens],
        "data": data.fingerprint(),
    }


def _save(model: AdaptedModel, folder: Path) -> None:
    """Write the live adapter: it is neither acquired nor negated, so no provenance is claimed."""
    with tempfile.TemporaryDirectory() as temporary:
        save_acquired(model, ACQUIRED, Path(temporary) / "live")
        lora = read_lora(Path(temporary) / "live")
        with atomic_folder(folder) as target:
            write_lora(target, lora.config, lora.factors, None)
