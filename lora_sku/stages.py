"""What the stages of a run share: data, encoder, the one base; each stage's peak is measured."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch
from accelerate.utils.memory import should_reduce_batch_size

from lora_sku.adapters import check_fits, read_lora
from lora_sku.budget import Budget, refuse_too_few
from lora_sku.confirmation import Confirmation
from lora_sku.data import DataSets, Encoder, Row, SafeResponses, load_data, load_further
from lora_sku.devices import choose_device
from lora_sku.elicitation import (
    Elicitor,
    make_elicitor,
    unseen_own_answers,
    with_own_answers,
)
from lora_sku.errors import PlanError
from lora_sku.evaluation import Evaluation
from lora_sku.evaluation import evaluate as evaluate_model
from lora_sku.harness import Tasks, load_tasks, measure_both
from lora_sku.heap import release_free_memory
from lora_sku.judges.building import build_judge, text_judges
from lora_sku.likelihood import AnswerScorer
from lora_sku.live_factors import LiveFactors
from lora_sku.memory import Peak, PeakMeter
from lora_sku.model import NEGATED, AdaptedModel, Base, load_base, load_tokenizer
from lora_sku.planning import Device
from lora_sku.progress import Progress
from lora_sku.recipe import NegationSection, Recipe
from lora_sku.sweep import Sweep, sweep


class Stages:
    """What the stages share: data, encoder, the one base; each stage's peak is measured."""

    def __init__(self, recipe: Recipe, progress: Progress) -> None:
        self.recipe = recipe
        self.progress = progress
        self.peaks: dict[str, Peak] = {}
        self._device = choose_device(recipe.base_model)
        self._device_kind: Device = "cuda" if self._device.type == "cuda" else "cpu"
        self._meter = PeakMeter(self._device)
        self._learned: DataSets | None = None
        with self._stage("data"):
            self.encoder = load_encoder(recipe)
            self.data = load_data(recipe.data, self.encoder)

    @cached_property
    def base(self) -> Base:
        """The base, loaded at the first use."""
        with self._stage("load"):
            return load_base(self.recipe.base_model)

    @cached_property
    def lookalikes(self) -> tuple[Row, ...]:
        """Harmless prompts that sound harmful, read at the first use."""
        return lookalikes(self.recipe, self.data, self.encoder)

    @cached_property
    def other_harm(self) -> tuple[Row, ...]:
        """Harmful prompts of other kinds, read at the first use."""
        return other_harm(self.recipe, self.data, self.encoder)

    @cached_property
    def tasks(self) -> Tasks | None:
        """lm-evaluation-harness's, loaded at the first use; None if none are asked for."""
        section = self.recipe.evaluation.lm_eval
        return None if section is None else load_tasks(section)

    def prepare_evaluation(self) -> None:
        """Find what the evaluation alone needs, so that its want is told before any training.

        Raises:
            UserError: if something is missing or cannot be used.
        """
        _ = self.lookalikes, self.other_harm, self.tasks

    def load(self, adapter: Path, name: str = NEGATED) -> AdaptedModel:
        """The base with a saved adapter."""
        check_fits(read_lora(adapter), self.base)
        return AdaptedModel.with_adapter_from(self.base, adapter, name)

    def learned(self, model: AdaptedModel) -> DataSets:
        """The data that is trained and swept on: given answers or the base's own."""
        if self._learned is None:
            self._learned = self.data
            if self.recipe.data.asks_the_base:
                with self._stage("elicit"):
                    self._learned = with_own_answers(
                        self.data, self.recipe.data, self._elicitor(model), self.progress.note
                    )
        return self._learned

    def _elicitor(self, model: AdaptedModel) -> Elicitor:
        told = self.progress.evaluated
        return make_elicitor(
            self.recipe.data,
            self.recipe.evaluation,
            model,
            self.encoder,
            self.data.retain,
            lambda done, all_: told("own answers", done, all_),
        )

    def _own_unseen(self, model: AdaptedModel) -> tuple[Sequence[Row], Sequence[Row]] | None:
        wanted = self.recipe.evaluation.selectivity
        if not (self.recipe.data.asks_the_base if wanted == "auto" else wanted):
            return None
        with self._stage("elicit unseen"):
            most = self.recipe.evaluation.max_generations
            return unseen_own_answers(self.data, self._elicitor(model), most)

    def evaluate(self, model: AdaptedModel) -> Evaluation:
        """Base beside unlearned."""
        own = self._own_unseen(model)
        drawn = self.recipe.data.own_prompts is not None
        protect = (self.learned(model) if drawn else self.data).protect
        with self._stage("evaluate"):
            return evaluate_model(
                model,
                self.encoder,
                self.data.forget,
                self.data.retain,
                self.recipe.evaluation,
                self.progress.evaluated,
                protect=protect,
                own=own,
                lookalikes=self.lookalikes,
                other_harm=self.other_harm,
            )

    def measure_tasks(self, model: AdaptedModel, evaluation: Evaluation) -> Evaluation:
        """The evaluation with the harness's figures, if the recipe asks for any."""
        tasks, settings = self.tasks, self.recipe.evaluation
        if tasks is None:
            return evaluation
        with self._stage("lm-eval"):
            size = settings.per_device_eval_batch_size
            return evaluation.with_tasks(*measure_both(tasks, model, size, self.progress.evaluated))

    def judge(self, evaluation: Evaluation) -> Evaluation:
        """The evaluation with the labels of the judges that see texts only.

        The base is let go first, for some have a large model of their own; the caller must hold no
        model any more.
        """
        settings = self.recipe.evaluation
        for name in text_judges(settings):
            with self._stage(f"judge: {name}"):
                self._free_base()
                judge = build_judge(name, settings, self._device)
                harmful = (*self.data.forget.unseen, *self.other_harm)
                evaluation = evaluation.judged_by(judge, harmful)
        return evaluation

    def sweep(self, model: AdaptedModel, live: LiveFactors) -> Sweep:
        """Try strengths on the validation split; the live adapter is put back."""
        size = self.recipe.evaluation.per_device_eval_batch_size
        safe = safe_responses(self.recipe, self.data).all.answers
        forget, normal = self.swept_rows(self.learned(model))
        bounds = budget(self.recipe.negation)
        refuse_too_few(bounds, {name: len(rows) for name, rows in normal.items()})

        def scorer(rows: Sequence[Row]) -> AnswerScorer:
            return AnswerScorer(model, self.encoder, rows, pairs_at_once=size, safe=safe)

        with self._stage("sweep"):
            return sweep(
                live,
                scorer(forget),
                {name: scorer(rows) for name, rows in normal.items()},
                budget=bounds,
                confirm=Confirmation(model, self.encoder, forget, normal, batch_size=size),
                on_point=self.progress.swept,
            )

    def swept_rows(self, data: DataSets) -> tuple[tuple[Row, ...], dict[str, tuple[Row, ...]]]:
        """Of the forget set and each normal set; a split is in a hash's order, so fairly cut."""
        most = self.recipe.evaluation.max_prompts
        normal = {name: splits.validation[:most] for name, splits in data.normal.items()}
        return data.forget.validation[:most], normal

    def _free_base(self) -> None:
        self.__dict__.pop("base", None)  # a cached property: the next use would load it again
        gc.collect()  # modules refer to each other in circles
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.progress.stage(name)
        release_free_memory()  # or a stage's peak would hold what the one before it left
        self._meter.start()
        try:
            yield
        except RuntimeError as error:  # what can be done with less has been, inside the stage
            if not should_reduce_batch_size(error):
                raise
            raise PlanError(
                f"memory ran out in the stage '{name}'",
                where=self.recipe.base_model.path,
                remedy="`lora-sku plan` shows what each stage takes; with --gpu-memory, also what"
                " lowers it.",
            ) from error
        self.peaks[name] = self._meter.read()


def safe_responses(recipe: Recipe, data: DataSets) -> SafeResponses:
    """What shall be said to harmful prompts."""
    return SafeResponses(recipe.losses.safe_response.answers, data.safe_responses)


def budget(section: NegationSection) -> Budget:
    """What normal prompts may lose by the strength that is chosen."""
    return Budget(
        perplexity_ratio=section.retain_budget,
        first_kl=section.kl_budget,
        refused=section.refusals_budget,
        hard_negatives_refused=section.hard_negatives_budget,
    )


def lookalikes(recipe: Recipe, data: DataSets, encoder: Encoder | None) -> tuple[Row, ...]:
    """Harmless prompts that sound harmful and that no split knows."""
    source = recipe.evaluation.lookalikes
    if source is None:
        return ()
    return load_further(source, "retain", "evaluation.lookalikes", data, encoder)


def other_harm(recipe: Recipe, data: DataSets, encoder: Encoder | None) -> tuple[Row, ...]:
    """Harmful prompts of other kinds, which no split knows."""
    source = recipe.evaluation.other_harm
    if source is None:
        return ()
    return load_further(source, "forget", "evaluation.other_harm", data, encoder)


def load_encoder(recipe: Recipe) -> Encoder:
    """The recipe's tokenizer with its template and length limits; no weights are loaded.

    Raises:
        UserError: if there is no such tokenizer.
    """
    return Encoder(
        load_tokenizer(recipe.base_model),
        template=recipe.base_model.template,
        max_prompt_tokens=recipe.data.max_prompt_tokens,
        max_answer_tokens=recipe.data.max_answer_tokens,
    )
