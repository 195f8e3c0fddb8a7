"""The stages of a run in its directory: each leaves its part of the evidence."""

import json
import shutil
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from lora_sku.acquisition import Acquisition, Objective, StepRecord
from lora_sku.adapters import read_lora, save_acquired
from lora_sku.artifacts import RunDirectory
from lora_sku.budget import refuse_too_few
from lora_sku.checkpoints import CheckpointStore
from lora_sku.data import DataSets, fingerprint
from lora_sku.elicitation import preserved_rows
from lora_sku.environment import describe_environment, package_version
from lora_sku.errors import AdapterError, TrainingError
from lora_sku.evaluation import Evaluation
from lora_sku.live_factors import LiveFactors
from lora_sku.model import ACQUIRED, NEGATED, AdaptedModel
from lora_sku.model_card import model_card
from lora_sku.negation import negate, verify_loaded
from lora_sku.planning import Plan, free_bytes, plan_run, refuse_too_large, warning
from lora_sku.progress import Progress, Silent
from lora_sku.recipe import Recipe, SourceSection, differences
from lora_sku.recipe_file import dump_recipe, load_recipe
from lora_sku.report import write_report
from lora_sku.stages import Stages, budget, safe_responses
from lora_sku.storage import require_free_space, write_json, write_text


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
        objective: Objective | None = None,
    ) -> None:
        self._objective = objective
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
        if recipe.negation.strength == "auto":
            self._refuse_too_few()
        model = AdaptedModel.with_new_adapter(self.base, recipe.adapter, seed=recipe.training.seed)
        data = self.learned(model)
        checkpoints = CheckpointStore(directory.checkpoints, self._identity(data))
        acquisition = Acquisition(
            model,
            self.encoder,
            data.forget.train,
            preserved_rows(data, recipe.data),
            safe_responses(recipe, data),
            recipe.losses,
            recipe.training,
            checkpoints,
            directory.trackers,
            self.plan.micro_batch,
            None if self._objective is None else self._objective(model, self.encoder),
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
            log.write(json.dumps(record.as_dict()) + "\n")
            log.flush()
            self.progress.step(record, recipe.training.max_steps)

        with self._stage("acquire"), directory.metrics_log(keep_steps=start) as log:
            acquisition.run(on_step, start=start)
        save_acquired(model, ACQUIRED, directory.harmful_adapter)
        return model

    def negate(self, model: AdaptedModel) -> None:
        """Write the negated adapter, load it as PEFT would, verify it, make it the active one."""
        harmful, adapter = self.directory.harmful_adapter, self.directory.adapter
        strength = self._strength(model)
        with self._stage("negate"):
            negate(harmful, adapter, strength=strength)
            model.load_adapter(adapter, NEGATED)
            try:
                verify_loaded(model, ACQUIRED, NEGATED, strength)
            except AdapterError:
                shutil.rmtree(adapter)  # or a resumed run would take it for good
                raise
            model.delete_adapter(ACQUIRED)

    def _strength(self, model: AdaptedModel) -> float:
        """The recipe's, or what the sweep finds."""
        strength = self.recipe.negation.strength
        if strength != "auto":
            return strength
        swept = self.sweep(model, LiveFactors(model, ACQUIRED))
        write_json(self.directory.sweep, swept.as_dict())
        return swept.choice.strength

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

    def _refuse_too_few(self) -> None:
        """Refuse bounds that the normal sets are too small for; own prompts are not drawn yet."""
        if self.recipe.data.own_prompts is None:
            _, normal = self.swept_rows(self.data)
            refuse_too_few(
                budget(self.recipe.negation), {name: len(rows) for name, rows in normal.items()}
            )

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
        """The model card, the generations, the peaks, evaluation.json, and the page about them."""
        directory = self.directory
        negated = read_lora(directory.adapter).provenance
        assert negated is not None, "this run wrote the adapter"
        card = model_card(self.recipe, negated, evaluation, version=package_version())
        write_text(directory.adapter / "README.md", card)
        directory.write_generations(asdict(generation) for generation in evaluation.generations)
        self.write_memory()
        write_json(directory.evaluation, evaluation.as_dict())
        write_report(directory.path)

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
        # A set's keys say where it is, and whose answers count; what it holds is compared by
        # fingerprint.
        # How many prompts go through at once changes memory, not what is computed.
        places = set(SourceSection.model_fields) - {"answers"}
        free: dict[str, Any] = {
            "evaluation": True,
            "output_dir": True,
            "data": {
                "forget": places,
                "forget_unseen": True,
                "retain": places,
                "protect": {"__all__": places},
                "hard_negatives": places,
                "safe_responses": True,
            },
            "training": {"micro_batch_size"},
        }
        started = load_recipe(directory.recipe).model_dump(exclude=free)
        now = self.recipe.model_dump(exclude=free)
        environment = json.loads(directory.environment.read_text(encoding="utf-8"))
        differing = differences(started, now)
        if environment["data_fingerprint"] != self.data.fingerprint:
            differing.append("the forget or retain set, or a protected one, holds other records")
        if differing:
            raise TrainingError(
                f"this run was started with something else: {'; '.join(differing)}",
                where=str(directory.path),
                remedy=f"Go on with `lora-sku run {directory.recipe} --resume`, or start afresh"
                " with --overwrite.",
            )

    def _identity(self, data: DataSets) -> dict[str, Any]:
        """What must be the same for a checkpoint to be gone on from, beside the recipe."""
        identity = {"forget or retain set": data.fingerprint, "base model": self.base.fingerprint}
        if data is not self.data:
            identity["the base's own answers"] = fingerprint(data)
        return identity
