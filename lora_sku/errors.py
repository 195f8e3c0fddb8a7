"""What a user can cause, said so that the user can mend it.

Everything below `UserError` is caught once, by the command line, and shown as one paragraph
with exit code 2. What cannot happen is an ``assert``, never one of these.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake or an obstacle outside the program: what is wrong, where, and what to do.

    Args:
        problem: What is wrong, a sentence; its full stop may be left out.
        where: The place: file and line, recipe key, adapter folder.
        remedy: What the user can do about it, one or two sentences.
    """

    def __init__(
        self, problem: str, *, where: str | None = None, remedy: str | None = None
    ) -> None:
        self.problem = problem
        self.where = where
        self.remedy = remedy
        super().__init__(problem)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        stop = "" if self.problem.endswith((".", "?", "!")) else "."
        remedy = f" {self.remedy}" if self.remedy else ""
        return f"{place}{self.problem}{stop}{remedy}"


@contextmanager
def at_key(key: str) -> Iterator[None]:
    """Name the recipe's key before the place of whatever goes wrong inside."""
    try:
        yield
    except UserError as error:
        error.where = f"{key}: {error.where}" if error.where else key
        raise


class RecipeError(UserError):
    """A recipe that cannot be read or whose values contradict each other."""


class SourceError(UserError):
    """A model or data set that cannot be found, or that may not be read."""


class SourceUnreachableError(SourceError):
    """A hub source that is not on this machine while the hub cannot be asked for it."""


class DataError(UserError):
    """A forget or retain set that cannot be used as it is."""


class ModelError(UserError):
    """A base model that cannot be quantized or adapted soundly."""


class AdapterError(UserError):
    """An adapter that cannot be negated, or that belongs to another base."""


class TrainingError(UserError):
    """A stage 1 that diverged, or that cannot be resumed."""


class PlanError(UserError):
    """A run that cannot fit into memory."""


class JudgeError(UserError):
    """A judge that cannot be loaded, calibrated or reached."""


class TaskError(UserError):
    """A task of lm-evaluation-harness that cannot be found, loaded or run."""


class StorageError(UserError):
    """A run directory that cannot be written."""


class RunDirectoryError(UserError):
    """A folder that holds no run, or a run whose files are damaged."""
