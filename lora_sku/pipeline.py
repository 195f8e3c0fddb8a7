"""Recipe -> run directory: the only room that knows the order of the stages.

data -> base -> acquire -> negate -> verify -> evaluate -> evidence on disk
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from lora_sku.acquisition import Acquisition, StepRecord
from lora_sku.adapters import check_fits, read_lora, save_acquired
from lora_sku.artifacts import RunDirectory
from lora_sku.checkpoints import CheckpointStore
from lora_sku.data import DataAudit, Encoder, audit, load_data
from lora_sku.environment import describe_environment, package_version
from lora_sku.errors import SourceUnreachableError
from lora_sku.evaluation import Evaluation
from lora_sku.evaluation import evaluate as evaluate_model
from lora_sku.memory import Peak, PeakMeter
from lora_sku.model import (
    ACQUIRED,
    NEGATED,
    AdaptedModel,
    Base,
    choose_device,
    load_base,
    load_tokenizer,
)
from lora_sku.model_card import model_card
from lora_sku.negation import negate, verify_loaded
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import dump_recipe
from lora_sku.storage import require_free_space, write_json, write_text


class Progress(Protocol):
    """Who watches a run; the command line's is in `console`."""

    def stage(self, name: str) -> None:
        """A stage begins."""

    def step(self, record: StepRecord, max_steps: int) -> None:
        """An optimizer step is done."""

    def evaluated(self, what: str, done: int, total: int) -> None:
        """A part of the evaluation is done."""


class Silent:
    """Nobody watches."""

    def stage(self, name: str) -> None:
        """Say nothing."""

    def step(self, record: StepRecord, max_steps: int) -> None:
        """Say nothing."""

    def evaluated(self, what: str, done: int, total: int) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class RunResult:
    """What `run` made.

    Attributes:
        folder: The run directory.
        adapter: The negated adapter in it.
        evaluation: Base beside unlearned.
        memory: Measured peak of each stage.
    """

    folder: Path
    adapter: Path
    evaluation: Evaluation
    memory: dict[str, Peak]


def run(
    recipe: Recipe,
    *,
    output: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> RunResult:
    """The whole path: acquire, negate, verify, evaluate.

    Args:
        recipe: What to do.
        output: Run directory instead of ``recipe.output_dir``.
        resume: Go on with an interrupted run, from its newest checkpoint.
        overwrite: Replace a run that is already in the directory.
        progress: Who watches.

    Raises:
        UserError: for whatever the user can mend; nothing is half-written then.
    """
    session = _Session(recipe, output, progress, resume=resume, overwrite=overwrite)
    directory = session.directory
    model = None
    if not directory.adapter.exists():
        model = session.acquire(resume=resume)
        session.negate(model)
    # Only now, so that a run killed before this line goes on instead of beginning again.
    directory.remove_harmful_weights(keep_adapter=recipe.negation.keep_harmful_adapter)
    evaluation = session.evaluate(model or session.load(directory.adapter))
    session.write_evidence(evaluation)
    return RunResult(directory.path, directory.adapter, evaluation, session.peaks)


def acquire(
    recipe: Recipe,
    *,
    output: Path | str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Stage 1 alone; returns the folder of the harmful adapter, marked DO-NOT-SHIP.

    Raises:
        UserError: as `run`.
    """
    session = _Session(recipe, output, progress, resume=resume, overwrite=overwrite)
    session.acquire(resume=resume)
    session.directory.remove_harmful_weights(keep_adapter=True)
    session.write_memory()
    return session.directory.harmful_adapter


def evaluate(
    recipe: Recipe, adapter: Path | str, *, progress: Progress | None = None
) -> Evaluation:
    """Score an adapter beside the recipe's base, on the recipe's data; writes nothing.

    Raises:
        AdapterError: if the adapter is no plain LoRA, or belongs to another base.
    """
    read_lora(Path(adapter))  # a bad folder is told before the base is loaded
    stages = _Stages(recipe, progress or Silent())
    return stages.evaluate(stages.load(Path(adapter)))


def validate(recipe: Recipe) -> DataAudit:
    """Read the recipe's data and tokenizer and describe them; no weights are loaded.

    Raises:
        SourceUnreachableError: if the data is a hub set that is neither here nor reachable.
        UserError: for data that cannot be used.
    """
    try:
        encoder = _encoder(recipe)
    except SourceUnreachableError:
        encoder = None  # the audit says that the tokens were not counted
    return audit(load_data(recipe.data, encoder), encoder)


class _Stages:
    """What the stages share: data, encoder, the one base; each stage's peak is measured."""

    def __init__(self, recipe: Recipe, progress: Progress) -> None:
        self.recipe = recipe
        self.progress = progress
        self.peaks: dict[str, Peak] = {}
        self._meter = PeakMeter(choose_device(recipe.base_model))
        with self._stage("data"):
            self.encoder = _encoder(recipe)
            self.data = load_data(recipe.data, self.encoder)

    @cached_property
    def base(self) -> Base:
        """The base, loaded at the first use."""
        with self._stage("load"):
            return load_base(self.recipe.base_model)

    def load(self, adapter: Path) -> AdaptedModel:
        """The base with a saved adapter."""
        check_fits(read_lora(adapter), self.base)
        return AdaptedModel.with_adapter_from(self.base, adapter)

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

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.progress.stage(name)
        self._meter.start()
        yield
        self.peaks[name] = self._meter.read()


class _Session(_Stages):
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
        super().__init__(recipe, progress or Silent())
        self.directory = RunDirectory(Path(output or recipe.output_dir).expanduser())
        self.directory.open(resume=resume, overwrite=overwrite)
        if not resume:
            write_text(self.directory.recipe, dump_recipe(recipe))

    def acquire(self, *, resume: bool) -> AdaptedModel:
        """Train the harmful adapter and write it."""
        recipe, directory = self.recipe, self.directory
        checkpoints = CheckpointStore(directory.checkpoints, self._identity())
        model = AdaptedModel.with_new_adapter(self.base, recipe.adapter, seed=recipe.training.seed)
        require_free_space(directory.path, _bytes_to_write(model, checkpoints))
        self._write_environment()
        with self._stage("acquire"):
            acquisition = Acquisition(
                model,
                self.encoder,
                self.data.forget.train,
                self.data.retain.train,
                recipe.losses,
                recipe.training,
                checkpoints,
                directory.trackers,
            )
            start = acquisition.restore() if resume else 0
            with directory.metrics_log(keep_steps=start) as log:

                def on_step(record: StepRecord) -> None:
                    log.write(json.dumps(asdict(record)) + "\n")
                    log.flush()
                    self.progress.step(record, recipe.training.max_steps)

                acquisition.run(on_step, start=start)
        save_acquired(model, ACQUIRED, directory.harmful_adapter)
        return model

    def negate(self, model: AdaptedModel) -> None:
        """Write the negated adapter, load it as PEFT would, verify it, make it the active one."""
        strength = self.recipe.negation.strength
        with self._stage("negate"):
            negate(self.directory.harmful_adapter, self.directory.adapter, strength=strength)
            model.load_adapter(self.directory.adapter, NEGATED)
            verify_loaded(model, ACQUIRED, NEGATED, strength)
            model.delete_adapter(ACQUIRED)

    def write_evidence(self, evaluation: Evaluation) -> None:
        """The model card, the generations, the peaks, and last evaluation.json."""
        directory = self.directory
        card = model_card(self.recipe, evaluation, version=package_version())
        write_text(directory.adapter / "README.md", card)
        directory.write_generations(asdict(generation) for generation in evaluation.generations)
        self.write_memory()
        write_json(directory.evaluation, evaluation.as_dict())

    def write_memory(self) -> None:
        """memory.json: the measured peak of each stage."""
        measured = {name: peak.as_dict() for name, peak in self.peaks.items()}
        write_json(self.directory.memory, {"measured": measured})

    def _write_environment(self) -> None:
        environment = describe_environment(
            self.base, self.data.fingerprint, self.recipe.training.seed
        )
        write_json(self.directory.environment, environment)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for a checkpoint to be gone on from."""
        dumped = self.recipe.model_dump(mode="json")
        sections = ("base_model", "adapter", "losses", "training")
        return {f"{name} section": dumped[name] for name in sections} | {
            "forget or retain set": self.data.fingerprint,
            "base model": self.base.fingerprint,
        }


def _encoder(recipe: Recipe) -> Encoder:
    return Encoder(
        load_tokenizer(recipe.base_model),
        template=recipe.base_model.template,
        max_prompt_tokens=recipe.data.max_prompt_tokens,
        max_answer_tokens=recipe.data.max_answer_tokens,
    )


def _bytes_to_write(model: AdaptedModel, checkpoints: CheckpointStore) -> int:
    """Upper bound of a run's disk use: checkpoints with fp32 Adam states, and two adapters."""
    weights = sum(4 * parameter.numel() for parameter in model.trained_parameters().values())
    return weights * (3 * (checkpoints.keep + 1) + 2)
