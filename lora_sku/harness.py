"""Tasks of lm-evaluation-harness on the model in memory; nothing else here imports that package.

Tasks are loaded with their data before anything is trained, so that one that cannot be had is told
at once instead of after hours.
"""

import copy
import difflib
import math
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

import torch

from lora_sku.errors import TaskError
from lora_sku.model import AdaptedModel, Base
from lora_sku.recipe import LmEvalSection
from lora_sku.task_scores import Measured, Metrics

_KEY = "evaluation.lm_eval"
_SEED = 1234  # the harness's own
_BOOTSTRAPS = 1000  # for metrics whose standard error has no formula


class Tasks(Protocol):
    """Loaded tasks."""

    def measure(self, base: Base, batch_size: int, on_task: Callable[[int, int], None]) -> Measured:
        """Figures of the model as it is now, its adapters on or off.

        Args:
            base: The model.
            batch_size: Requests at once.
            on_task: Called with (tasks done, all) after each.
        """


def measure_both(
    tasks: Tasks,
    model: AdaptedModel,
    batch_size: int,
    on_progress: Callable[[str, int, int], None] = lambda *_: None,
) -> tuple[Measured, Measured]:
    """(theta_o's, the active adapter's) figures.

    Args:
        tasks: As `load_tasks` gives them.
        model: In evaluation mode.
        batch_size: Requests at once.
        on_progress: Called with (what, tasks done, all) after each.
    """
    with model.reference_mode():
        base = tasks.measure(model.base, batch_size, partial(on_progress, "lm-eval tasks, base"))
    told = partial(on_progress, "lm-eval tasks, unlearned")
    return base, tasks.measure(model.base, batch_size, told)


def load_tasks(section: LmEvalSection) -> Tasks:
    """Find the tasks, load their data, and build a request of each.

    Raises:
        TaskError: lm-eval is not installed; there is no such task or folder; a task cannot be
            loaded, or is one that this program does not run.
    """
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise TaskError(
            f"lm-evaluation-harness cannot be imported: {error}",
            where=_KEY,
            remedy="`pip install 'lora-sku[lm-eval]'` brings it; or set the key to null.",
        ) from error
    if section.include_path is not None and not _folder(section.include_path).is_dir():
        raise TaskError(
            f"there is no folder {section.include_path}",
            where=f"{_KEY}.include_path",
            remedy="Name the folder that holds the tasks' .yaml files.",
        )
    include = None if section.include_path is None else str(_folder(section.include_path))
    with _unobtrusively():
        manager = TaskManager(include_path=include)
        _refuse_unknown(section.tasks, manager.all_tasks)
        return _Loaded([_load(manager, name, section) for name in section.tasks], section)


class _Loaded:
    """`TaskManager.load`'s tasks, groups and group_map for each name of the section."""

    def __init__(self, loaded: Sequence[dict[str, dict[str, Any]]], section: LmEvalSection) -> None:
        self._loaded = loaded
        self._section = section

    def measure(self, base: Base, batch_size: int, on_task: Callable[[int, int], None]) -> Measured:
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM

        # The tokenizer is given a padding token, which the encoder must not find there.
        tokenizer = copy.deepcopy(base.tokenizer)
        metrics: Metrics = {}
        documents: dict[str, int] = {}
        for done, loaded in enumerate(self._loaded, start=1):
            with _unobtrusively(), _same_chance(loaded["tasks"].values()):
                results = evaluate(
                    lm=_without_bars(
                        HFLM(pretrained=base.model, tokenizer=tokenizer, batch_size=batch_size)
                    ),
                    task_dict=loaded,
                    limit=self._section.limit,
                    bootstrap_iters=_BOOTSTRAPS,
                    log_samples=False,
                )["results"]
            found = _metrics_of(results, loaded["group_map"])
            metrics |= found
            documents |= {name: int(results[name].get("sample_len", 0)) for name in found}
            on_task(done, len(self._loaded))
        return Measured(metrics, documents)


def _without_bars(model: Any) -> Any:
    """The harness's model without progress bars, which would break into those of a run."""
    for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        setattr(model, kind, partial(getattr(model, kind), disable_tqdm=True))
    return model


def _metrics_of(
    results: Mapping[str, Mapping[str, Any]], children: Mapping[str, Sequence[str]]
) -> Metrics:
    """Those of each task; a group that has figures of its own stands for what is in it."""
    found = {name: metrics for name, told in results.items() if (metrics := _metrics(told))}
    inside = {child for name, inner in children.items() if name in found for child in inner}
    return {name: metrics for name, metrics in found.items() if name not in inside}


def _metrics(told: Mapping[str, Any]) -> dict[str, float | None]:
    """Metric -> value; "acc,none" is acc, and a filter other than none stays behind its comma."""
    return {
        key.removesuffix(",none"): float(value) if math.isfinite(value) else None
        for key, value in told.items()
        if "," in key and isinstance(value, Real)
    }


def _folder(written: str) -> Path:
    return Path(written).expanduser()


def _refuse_unknown(asked: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in asked if name not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=3)
        raise TaskError(
            f"there is no task {', '.join(unknown)}",
            where=f"{_KEY}.tasks",
            remedy=f"Near {unknown[0]}: {', '.join(close)}."
            if close
            else "`lm-eval ls tasks` lists them; your own need evaluation.lm_eval.include_path.",
        )


def _load(manager: Any, name: str, section: LmEvalSection) -> dict[str, dict[str, Any]]:
    try:
        found: dict[str, dict[str, Any]] = manager.load([name])
        for task in found["tasks"].values():
            _set_fewshot(task, section.num_fewshot)
            task.build_all_requests(limit=1, rank=0, world_size=1)
    except Exception as error:  # a task is foreign code: whatever it raises, it cannot be used
        raise TaskError(
            f"the task {name} cannot be loaded: {str(error) or type(error).__name__}",
            where=f"{_KEY}.tasks",
            remedy="Its data comes from the hub: load it where there is a network. Some tasks need"
            " further packages.",
        ) from error
    for task_name, task in found["tasks"].items():
        for flag, why in (
            ("UNSAFE_CODE", "runs code that the model writes"),
            ("MULTIMODAL", "asks about more than text"),
        ):
            if getattr(task, flag, False):
                raise TaskError(
                    f"the task {task_name} {why}",
                    where=f"{_KEY}.tasks",
                    remedy="Leave it out: it is not run here.",
                )
    return found


def _set_fewshot(task: Any, wanted: int | None) -> None:
    """The harness's own rule: a task that says 0 keeps it, and one that says nothing has 0."""
    own = task.get_config("num_fewshot")
    if wanted is not None and own != 0:
        task.set_config("num_fewshot", wanted)
    elif own is None:
        task.set_config("num_fewshot", 0)


@contextmanager
def _unobtrusively() -> Iterator[None]:
    """Inside, prints go to stderr, for stdout may be JSON, and nothing starts processes.

    A standard error by bootstrap would be computed in copies of this process, model and all.
    """
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


@contextmanager
def _same_chance(tasks: Any) -> Iterator[None]:
    """Both models get the same examples, in the same order, and the same draws."""
    for task in tasks:
        task.set_fewshot_seed(seed=_SEED)
    state = random.getstate()
    random.seed(_SEED)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(_SEED)
            yield
    finally:
        random.setstate(state)
