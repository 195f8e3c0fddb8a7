"""Recipe -> run directory: the only room that knows the order of the stages.

data -> base -> own answers, if asked for -> acquire -> negate -> verify -> evaluate -> evidence on
disk
"""

from dataclasses import dataclass
from pathlib import Path

from lora_sku.acquisition import Objective
from lora_sku.adapters import LoraFile, read_lora
from lora_sku.data import DataAudit, audit, load_data
from lora_sku.errors import DataError, SourceUnreachableError
from lora_sku.evaluation import Evaluation
from lora_sku.harness import load_tasks
from lora_sku.live_factors import LiveFactors
from lora_sku.memory import Peak
from lora_sku.model import NEGATED
from lora_sku.progress import Progress, Silent
from lora_sku.recipe import Recipe
from lora_sku.session import Session
from lora_sku.stages import Stages, load_encoder, lookalikes, other_harm
from lora_sku.sweep import Sweep


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
    objective: Objective | None = None,
) -> RunResult:
    """The whole path: acquire, negate, verify, evaluate.

    Args:
        recipe: What to do.
        output: Run directory instead of ``recipe.output_dir``.
        resume: Go on with an interrupted run, from its newest checkpoint.
        overwrite: Replace a run that is already in the directory.
        progress: Who watches.
        objective: Another loss than the recipe's losses, to compare with; all else stays.

    Raises:
        UserError: for whatever the user can mend; nothing is half-written then.
    """
    session = Session(
        recipe, output, progress, resume=resume, overwrite=overwrite, objective=objective
    )
    session.prepare_evaluation()
    directory = session.directory
    if resume and directory.adapter.exists():
        if directory.evaluation.exists():
            session.progress.note("This run was finished; its adapter is evaluated again.")
        model = session.load(directory.adapter)
        session.record()
    else:
        model = session.acquire(resume=resume)
        session.negate(model)
    # Only now, so that a run killed before this line goes on instead of beginning again.
    directory.remove_harmful_weights(keep_adapter=recipe.negation.keep_harmful_adapter)
    evaluation = session.evaluate(model)
    # What follows may fail, for want of a network or of memory, and must not take this with it.
    session.write_evidence(evaluation)
    if session.tasks is not None:
        evaluation = session.measure_tasks(model, evaluation)
        session.write_evidence(evaluation)
    del model
    evaluation = session.judge(evaluation)
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
    session = Session(recipe, output, progress, resume=resume, overwrite=overwrite)
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
    stages = Stages(recipe, progress or Silent())
    stages.prepare_evaluation()
    model = stages.load(Path(adapter))
    evaluation = stages.measure_tasks(model, stages.evaluate(model))
    del model
    return stages.judge(evaluation)


def sweep(recipe: Recipe, adapter: Path | str, *, progress: Progress | None = None) -> Sweep:
    """Try strengths of an adapter on the recipe's validation splits.

    Args:
        recipe: The base, the data and the budgets.
        adapter: An acquired adapter, or a negated one.
        progress: Who watches.

    Raises:
        DataError: if there is no validation split.
        AdapterError: if the adapter belongs to another base, or if no strength keeps the budget.
    """
    path = Path(adapter)
    multiple = _multiple_of_the_task_vector(read_lora(path))
    stages = Stages(recipe, progress or Silent())
    if not stages.data.forget.validation:
        raise DataError(
            "there is no validation split to sweep on",
            where="data.validation_fraction",
            remedy="Set it above 0, as it was in training: those prompts must not be trained ones.",
        )
    model = stages.load(path)
    return stages.sweep(model, LiveFactors(model, NEGATED, multiple=multiple))


def _multiple_of_the_task_vector(adapter: LoraFile) -> float:
    known = adapter.provenance
    return -known.strength if known is not None and known.role == "negated" else 1.0


def validate(recipe: Recipe) -> DataAudit:
    """Read the recipe's data and tokenizer and describe them; no weights are loaded.

    Raises:
        SourceUnreachableError: if the data is a hub set that is neither here nor reachable.
        UserError: for data that cannot be used.
    """
    try:
        encoder = load_encoder(recipe)
    except SourceUnreachableError:
        encoder = None  # the audit says that the tokens were not counted
    data = load_data(recipe.data, encoder)
    lookalikes(recipe, data, encoder)
    other_harm(recipe, data, encoder)
    if recipe.evaluation.lm_eval is not None:
        load_tasks(recipe.evaluation.lm_eval)
    return audit(data, encoder)
