"""What lm-evaluation-harness measured, base beside unlearned; no harness is needed to read it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_ERROR = "_stderr"

Metrics = dict[str, dict[str, float | None]]
"""Task -> metric -> value; None is no finite number."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One model's figures.

    Attributes:
        metrics: Of each task; a standard error is a metric of its own, such as acc_stderr.
        documents: How many questions each task asked.
    """

    metrics: Metrics
    documents: dict[str, int]


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """One metric of both models, in its own units."""

    base: float | None
    unlearned: float | None


TaskScores = dict[str, dict[str, BeforeAfter]]
"""Task -> metric -> both models' values."""


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One metric for people.

    Attributes:
        task: Its task.
        metric: Its name.
        values: Both models' values.
        errors: Their standard errors, as far as the harness knows them.
    """

    task: str
    metric: str
    values: BeforeAfter
    errors: BeforeAfter


def beside(base: Measured, unlearned: Measured) -> TaskScores:
    """Both models' figures side by side.

    Args:
        base: theta_o's.
        unlearned: The evaluated adapter's, on the same tasks.
    """
    return {
        task: {
            metric: BeforeAfter(value, unlearned.metrics[task].get(metric))
            for metric, value in metrics.items()
        }
        for task, metrics in base.metrics.items()
    }


def task_rows(scores: Mapping[str, Mapping[str, BeforeAfter]]) -> Iterator[TaskRow]:
    """Each metric with its standard error."""
    for task, metrics in scores.items():
        for metric, values in metrics.items():
            name, comma, kind = metric.partition(",")
            if not name.endswith(_ERROR):
                errors = metrics.get(f"{name}{_ERROR}{comma}{kind}", BeforeAfter(None, None))
                yield TaskRow(task, metric, values, errors)
