"""The stages of a run: what they share is loaded once, and each leaves its part of the evidence."""

import gc
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from lora_sku.acquisition import Acquisition, StepRecord
from lora_sku.adapters import check_fits, read_lora, save_acquired
from lora_sku.artifacts import RunDirectory
from lora_sku.checkpoints import CheckpointStore
from lora_sku.data import Encoder, load_data
from lora_sku.devices import choose_device
from lora_sku.environment import describe_environment, package_version
from lora_sku.errors import AdapterError, TrainingError
from lora_sku.evaluation import Evaluation
from lora_sku.evaluation import evaluate as evaluate_model
from lora_sku.heap import release_free_memory
from lora_sku.judges.building import build_judge, text_judges
from lora_sku.memory import Peak, PeakMeter
from lora_sku.model import ACQUIRED, NEGATED, AdaptedModel, Base, load_base, load_tokenizer
from lora_sku.model_card import model_card
from lora_sku.negation import negate, verify_loaded
from lora_sku.planning import Device, Plan, free_bytes, plan_run, refuse_too_large, warning
from lora_sku.progress import Progress, Silent
from lora_sku.recipe import Recipe, differences
from lora_sku.recipe_file import dump_recipe, load_recipe
from lora_sku.storage import require_free_space, write_json, write_text


class Stages:
    """What the stages share: data, encoder, the one base; each stage's peak is measured."""

    def __init__(self, recipe: Recipe, progress: Progress) -> None:
        self.recipe = recipe
        self.progress = progress
        self.peaks: dict[str, Peak] = {}
        self._device = choose_device(recipe.base_model)
        self._device_kind: Device = "cuda" if self._device.type == "cuda" else "cpu"
        self._meter = PeakMeter(self._device)
        with self._stage("data"):
            self.encoder = load_encoder(recipe)
            self.data = load_data(recipe.data, self.encoder)

    @cached_property
    def base(self) -> Base:
        """The base, loaded at the first use."""
        with self._stage("load"):
            return load_base(self.recipe.base_model)

    def load(self, adapter: Path, name: str = NEGATED) -> AdaptedModel:
        """The base with a saved adapter."""
        check_fits(read_lora(adapter), self.base)
        return AdaptedModel.with_adapter_from(self.base, adapter, name)

    def evaluate(self, model: AdaptedModel) -> Evaluation:
        """Base beside unlearned."""
        with self._stage("evaluate"):
            return evaluate_model(
                model,
                self.encoder,
                self.data.forget,
                self.data.retain,
                self.recipe.evaluation,
                self.progress.evaluated,
            )

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
                evaluation = evaluation.judged_by(judge, self.data.forget)
        return evaluation

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
        yield
        self.peaks[name] = self._meter.read()


class Session(Stages):
    """The stages of a run that owns a run directory."""

    def __init__(
        self,
        recipe: Recipe,
        output: Path | str | None,
        progress: Progress | None,
        *,
        resume: bool,
        overwrite: bool,
    ) -> None:
        self.directory = RunDirectory(Path(output or recipe.output_dir).expanduser())
        self.directory.check(resume=resume, overwrite=overwrite)
        super().__init__(recipe, progress or Silent())
        if resume:
            self._refuse_another_run()

    def acquire(self, *, resume: bool) -> AdaptedModel:
        """Train the harmful adapter and write it; take up what a resumed run has of it."""
        recipe, directory = self.recipe, self.directory
        if resume and directory.harmful_adapter.exists():
            return self.load(directory.harmful_adapter, ACQUIRED)
        self._plan_first()
        checkpoints = CheckpointStore(directory.checkpoints, self._identity())
        model = AdaptedModel.with_new_adapter(self.base, recipe.adapter, seed=recipe.training.seed)
        acquisition = Acquisition(
            model,
            self.encoder,
            self.data.forget.train,
            self.data.retain.train,
            recipe.losses,
            recipe.training,
            checkpoints,
            directory.trackers,
            self.plan.micro_batch,
        )
        require_free_space(directory.path, checkpoints.bytes_of_a_run(model.trained_parameters()))
        start = acquisition.restore() if resume else 0
        # All that can be refused has been: only now may an old run go and a new one be written.
        if not resume:
            directory.clear()
        self.record()

        self._tell_what_is_not_packed()
        micro_batch = self.plan.micro_batch

        def on_step(record: StepRecord) -> None:
            nonlocal micro_batch
            if record.micro_batch_prompts < micro_batch:
                micro_batch = record.micro_batch_prompts
                self.progress.note(
                    f"Out of memory in step {record.step}: repeated with {micro_batch} prompts at"
                    " once, and so go the steps after it."
                )
            log.write(json.dumps(asdict(record)) + "\n")
            log.flush()
            self.progress.step(record, recipe.training.max_steps)

        with self._stage("acquire"), directory.metrics_log(keep_steps=start) as log:
            acquisition.run(on_step, start=start)
        save_acquired(model, ACQUIRED, directory.harmful_adapter)
        return model

    def negate(self, model: AdaptedModel) -> None:
        """Write the negated adapter, load it as PEFT would, verify it, make it the active one."""
        strength = self.recipe.negation.strength
        with self._stage("negate"):
            negate(self.directory.harmful_adapter, self.directory.adapter, strength=strength)
            model.load_adapter(self.directory.adapter, NEGATED)
            try:
                verify_loaded(model, ACQUIRED, NEGATED, strength)
            except AdapterError:
                shutil.rmtree(self.directory.adapter)  # or a resumed run would take it for good
                raise
            model.delete_adapter(ACQUIRED)

    @cached_property
    def plan(self) -> Plan:
        """What is predicted of this run's memory."""
        return plan_run(self.recipe, device=self._device_kind, free=free_bytes(self._device))

    def _plan_first(self) -> None:
        """Refuse a run that cannot fit before any weight is read; warn of one that may not."""
        free, kind = free_bytes(self._device), self._device_kind
        refuse_too_large(self.recipe, device=kind, free=free)
        told = warning(self.plan, self.recipe, device=kind, free=free)
        if told is not None:
            self.progress.note(told)

    def _tell_what_is_not_packed(self) -> None:
        packing, data = self.base.packing, self.recipe.data
        if packing.refused is not None:
            self.progress.note(
                f"{packing.refused}, so each prompt is computed anew for each of its answers: the"
                " same result, more slowly."
            )
        elif not packing.takes(data.max_prompt_tokens + data.max_answer_tokens):
            self.progress.note(
                f"Pairs longer than this model's sliding window of {packing.longest} tokens are"
                " computed in rows of their own."
            )

    def write_evidence(self, evaluation: Evaluation) -> None:
        """The model card, the generations, the peaks, and last evaluation.json."""
        directory = self.directory
        card = model_card(self.recipe, evaluation, version=package_version())
        write_text(directory.adapter / "README.md", card)
        directory.write_generations(asdict(generation) for generation in evaluation.generations)
        self.write_memory()
        write_json(directory.evaluation, evaluation.as_dict())

    def write_memory(self) -> None:
        """memory.json: the planned peaks, and the measured one of each stage."""
        measured = {name: peak.as_dict() for name, peak in self.peaks.items()}
        memory = {"predicted": self.plan.as_dict(), "measured": measured}
        write_json(self.directory.memory, memory)

    def record(self) -> None:
        """environment.json and recipe.yaml, in this order: where a recipe is, a run is."""
        data, seed = self.data.fingerprint, self.recipe.training.seed
        write_json(self.directory.environment, describe_environment(self.base, data, seed))
        # With the folder that it was told to use, so that this file alone is enough to resume.
        resolved = self.recipe.model_copy(update={"output_dir": str(self.directory.path)})
        write_text(self.directory.recipe, dump_recipe(resolved))

    def _refuse_another_run(self) -> None:
        """A run goes on with what it was started with; only its evaluation may change."""
        directory = self.directory
        # The two sets' own keys say where they are; what they hold is compared by fingerprint.
        # How many prompts go through at once changes memory, not what is computed.
        free: dict[str, Any] = {
            "evaluation": True,
            "output_dir": True,
            "data": {"forget", "retain"},
            "training": {"micro_batch_size"},
        }
        started = load_recipe(directory.recipe).model_dump(exclude=free)
        now = self.recipe.model_dump(exclude=free)
        environment = json.loads(directory.environment.read_text(encoding="utf-8"))
        differing = differences(started, now)
        if environment["data_fingerprint"] != self.data.fingerprint:
            differing.append("the forget or retain set holds other records")
        if differing:
            raise TrainingError(
                f"this run was started with something else: {'; '.join(differing)}",
                where=str(directory.path),
                remedy=f"Go on with `lora-sku run {directory.recipe} --resume`, or start afresh"
                " with --overwrite.",
            )

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be gone on from, beside the recipe."""
        data, base = self.data.fingerprint, self.base.fingerprint
        return {"forget or retain set": data, "base model": base}


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
