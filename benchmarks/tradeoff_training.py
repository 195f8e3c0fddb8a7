"""Stage 1 of a trade-off unit, by whichever method: from a fresh adapter to a learned one."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.step_log import StepLog
from benchmarks.tradeoff_sets import NormalSets
from benchmarks.unlearning_methods import UnlearningMethod
from benchmarks.unlearning_objectives import ObjectiveGradients
from lora_sku.acquisition import Acquisition, MakeGradients
from lora_sku.balance import balance
from lora_sku.checkpoints import CheckpointStore
from lora_sku.data import Encoder, Row
from lora_sku.gradients import AnswerGradients
from lora_sku.model import ACQUIRED, AdaptedModel
from lora_sku.natural_step import natural_step
from lora_sku.recipe import (
    BalanceSection,
    NaturalStepSection,
    Recipe,
    SubspaceSection,
    TrainingSection,
)
from lora_sku.subspace import fix_subspace

# Pairs in the model at once in training: about as many tokens as two prompts with k = 5.
_PAIRS_AT_ONCE = 8
_SAVE_STEPS = 20


@dataclass(frozen=True)
class Stage1:
    """What the methods learn from.

    Attributes:
        recipe: The optimizer, and the settings of what a method asks for.
        steps: Of each training.
        model: Carries the adapter.
        encoder: Tokenizes.
        forget: Training rows.
        sets: The normal ones.
    """

    recipe: Recipe
    steps: int
    model: AdaptedModel
    encoder: Encoder
    forget: Sequence[Row]
    sets: NormalSets

    def run(self, method: UnlearningMethod, seed: int, rate: float, steps: StepLog) -> None:
        """Leave what a method learns in the adapter; go on where ``steps`` ends.

        Raises:
            TrainingError: if the model collapses.
        """
        self._start_anew(method.rank, seed)
        began = time.perf_counter()
        if method.subspace is not None:
            self._fix_subspace(method.subspace, seed)
        if method.natural:
            answer_tokens = self._natural_step(method, seed)
            steps.whole(time.perf_counter() - began, answer_tokens)
            return
        self._train(method, seed, rate, steps)
        if method.balanced:
            self._balance(method, seed)

    def _start_anew(self, rank: int, seed: int) -> None:
        """A random, B zero: the delta is 0. All of it is trained."""
        torch.manual_seed(seed)
        set_rank(self.model, rank)
        start = self.recipe.adapter.init_lora_weights
        for layer in self.model.adapted_layers:
            layer.reset_lora_parameters(ACQUIRED, start)
        for parameter in self.model.adapter_parameters().values():
            parameter.requires_grad_(True)
            parameter.grad = None

    def _fix_subspace(self, section: SubspaceSection, seed: int) -> None:
        fix_subspace(
            self.model,
            ACQUIRED,
            self.forget,
            self.sets.trained,
            self.encoder,
            section,
            rows=self.recipe.evaluation.per_device_eval_batch_size,
            seed=seed,
        )

    def _train(self, method: UnlearningMethod, seed: int, rate: float, steps: StepLog) -> None:
        folder: Path = steps.file.parent
        acquisition = Acquisition(
            self.model,
            self.encoder,
            self.forget,
            self.sets.preserved,
            method.losses,
            self._training(method, seed, rate),
            CheckpointStore(folder / "checkpoints", {}),
            folder / "trackers",
            min(method.prompts, _PAIRS_AT_ONCE),
            self._objective(method),
        )
        start = acquisition.restore()
        steps.keep(start)
        acquisition.run(steps.add, start=start)

    def _training(self, method: UnlearningMethod, seed: int, rate: float) -> TrainingSection:
        own, steps = self.recipe.training, self.steps
        return TrainingSection.model_validate(
            own.model_dump()
            | {
                "max_steps": steps,
                "warmup_steps": min(own.warmup_steps, steps - 1),
                "learning_rate": rate,
                "per_device_train_batch_size": method.prompts,
                "gradient_accumulation_steps": 1,
                "save_steps": _SAVE_STEPS,
                "seed": seed,
            }
        )

    def _objective(self, method: UnlearningMethod) -> MakeGradients | None:
        objective = method.objective
        if objective is None:
            return None
        return lambda backward, prompts: ObjectiveGradients(
            self.model, self.encoder, objective, prompts, backward
        )

    def _balance(self, method: UnlearningMethod, seed: int) -> None:
        balance(
            self._answer_gradients(),
            self.sets.trained,
            self.recipe.negation.balance or BalanceSection(),
            seed=seed,
            used="negated" if method.negated else "added",
        )

    def _natural_step(self, method: UnlearningMethod, seed: int) -> int:
        """Returns the supervised tokens that went through the model."""
        gradients = self._answer_gradients()
        natural_step(
            gradients,
            self.forget,
            self.sets.trained,
            method.losses,
            self.recipe.training.natural_step or NaturalStepSection(),
            (self.recipe.negation.balance or BalanceSection()) if method.balanced else None,
            seed=seed,
        )
        return gradients.answer_tokens

    def _answer_gradients(self) -> AnswerGradients:
        return AnswerGradients(
            self.model, ACQUIRED, self.encoder, pairs_at_once=_PAIRS_AT_ONCE, where="the benchmark"
        )


@torch.no_grad()
def set_rank(model: AdaptedModel, rank: int) -> None:
    """Give the adapter factors of another rank, all 0, and alpha for the same scaling."""
    config = model.peft_model.peft_config[ACQUIRED]
    if config.r == rank:
        return
    share = rank / config.r
    config.lora_alpha = config.lora_alpha * (share**0.5 if config.use_rslora else share)
    config.r = rank
    for layer in model.adapted_layers:
        a_RI, b_OR = (half[ACQUIRED].weight for half in (layer.lora_A, layer.lora_B))
        layer.lora_A[ACQUIRED].weight = nn.Parameter(a_RI.new_zeros(rank, a_RI.shape[1]))
        layer.lora_B[ACQUIRED].weight = nn.Parameter(b_OR.new_zeros(b_OR.shape[0], rank))
        layer.r[ACQUIRED], layer.lora_alpha[ACQUIRED] = rank, config.lora_alpha
