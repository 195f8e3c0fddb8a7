"""Recipe -> run directory: the only room that knows the order of the stages.

data -> base -> acquire -> negate -> verify -> evaluate -> evidence on disk
"""

from dataclasses import dataclass
from pathlib import Path

from lora_sku.adapters import read_lora
from lora_sku.data import DataAudit, audit, load_data
from lora_sku.errors import SourceUnreachableError
from lora_sku.evaluation import Evaluation
from lora_sku.memory import Peak
from lora_sku.progress import Progress, Silent
from lora_sku.recipe import Recipe
from lora_sku.session import Session, Stages, load_encoder


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
    session = Session(recipe, output, progress, resume=resume, overwrite=overwrite)
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
    session.write_evidence(evaluation)  # a judge may fail, for want of a network or of memory
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
    return stages.judge(stages.evaluate(stages.load(Path(adapter))))


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
    return audit(load_data(recipe.data, encoder), encoder)
