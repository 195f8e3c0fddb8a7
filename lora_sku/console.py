"""What a run shows: live progress on a terminal, plain lines when piped, always on stderr."""

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:  # printing a table must not load what training needs
    from lora_sku.acquisition import StepRecord
    from lora_sku.evaluation import Evaluation
    from lora_sku.sweep import Point, Sweep

_PLAIN_SECONDS = 10.0


class ConsoleProgress:
    """Watches a run; a `pipeline.Progress`. Use as a context manager."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = self._console.is_terminal
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._began = 0.0
        self._first_step = 0
        self._last_line = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._bars.stop()

    def stage(self, name: str) -> None:
        """A stage begins."""
        self._began, self._first_step = time.monotonic(), 0
        self._console.print(f"[bold]{name}[/bold]" if self._live else f"== {name}")

    def note(self, text: str) -> None:
        """Something that the user should know."""
        self._console.print(text, soft_wrap=True, markup=False)

    def step(self, record: "StepRecord", max_steps: int) -> None:
        """An optimizer step is done: its losses, memory, time left."""
        losses = "  ".join(f"{_initials(name)} {told:.3f}" for name, told in record.terms.items())
        facts = f"{losses}  {record.memory_gib:.2f} GiB"
        if self._live:
            self._advance("acquire", record.step, max_steps, facts)
            return
        self._first_step = self._first_step or record.step
        if record.step in (self._first_step, max_steps) or self._is_time():
            done = record.step - self._first_step + 1
            left = (time.monotonic() - self._began) / done * (max_steps - record.step)
            self._console.print(
                f"step {record.step}/{max_steps}  {facts}  {_minutes(left)} left", soft_wrap=True
            )

    def swept(self, point: "Point") -> None:
        """The sweep has measured a strength."""
        refused = ", ".join(f"{c.refused} of {c.prompts} {c.name}" for c in point.costs)
        ratios = " / ".join(f"{cost.perplexity_ratio:.3f}" for cost in point.costs)
        self._console.print(
            f"strength {point.strength:.3g}: refused {point.refused} of {point.prompts} harmful,"
            f" {refused}; harmful answers {point.forget_nll:.3f} nats/token, normal perplexity"
            f" {ratios} x base",
            soft_wrap=True,
        )

    def evaluated(self, what: str, done: int, total: int) -> None:
        """A part of the evaluation is done."""
        if self._live:
            self._advance(what, done, total, "")
        elif done == total:
            self._console.print(f"{what}: {done}/{total}", soft_wrap=True)

    def _advance(self, name: str, done: int, total: int, facts: str) -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total, facts=facts)
        self._bars.update(self._tasks[name], completed=done, facts=facts)

    def _is_time(self) -> bool:
        now = time.monotonic()
        if now - self._last_line < _PLAIN_SECONDS:
            return False
        self._last_line = now
        return True


def print_table(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A table on stdout: the first column text, the others figures."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    if not sys.stdout.isatty():
        console.width = 120
    console.print(table)


def print_evaluation(evaluation: "Evaluation") -> None:
    """Base beside unlearned, on stdout: what is said first, then all other figures."""
    from lora_sku.model_card import further_rows
    from lora_sku.report.headline import HEADER, headline
    from lora_sku.report.records import EvaluationRecord

    told = headline(EvaluationRecord.of(evaluation))
    print_table(f"Base beside unlearned. {told.basis}", HEADER, [row.told for row in told.rows])
    print_table("Likelihoods and further labels", HEADER[:3], list(further_rows(evaluation)))


def print_sweep(swept: "Sweep") -> None:
    """Every point, the chosen one marked, on stdout."""
    from lora_sku.report.records import SweepRecord
    from lora_sku.report.strengths import HEADER, bounds, strength_rows

    record = SweepRecord.model_validate(swept.as_dict())
    title = f"Strengths, on the validation split. {bounds(record.budget)}"
    print_table(title, HEADER, list(strength_rows(record)))


def _initials(term: str) -> str:
    """As the paper has them: GD, RD, PD."""
    return "".join(word[0].upper() for word in term.split("_"))


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
