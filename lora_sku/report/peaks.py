"""Planned and measured memory, stage by stage."""

from dataclasses import dataclass

from lora_sku.report.headline import GIB
from lora_sku.report.records import MemoryRecord


@dataclass(frozen=True, slots=True)
class StageMemory:
    """One stage, in GiB.

    Attributes:
        stage: Its name.
        planned: Predicted peak; None for a stage that is not planned.
        measured: Measured peak; None if it was not measured in this run.
        parts: Name -> GiB of the plan's parts, those below a MiB left out.
        moment: Where in the stage the planned peak is.
    """

    stage: str
    planned: float | None
    measured: float | None
    parts: dict[str, float]
    moment: str


def stage_memory(memory: MemoryRecord) -> tuple[StageMemory, ...]:
    """Every stage that was measured or planned, in the order in which they ran."""
    plans = {stage.stage: stage for stage in memory.predicted.stages}
    names = [*memory.measured, *(name for name in plans if name not in memory.measured)]
    rows = []
    for name in names:
        plan, peak = plans.get(name), memory.measured.get(name)
        rows.append(
            StageMemory(
                name,
                None if plan is None else plan.total / GIB,
                None if peak is None else peak.working_gib,
                {}
                if plan is None
                else {part: size / GIB for part, size in plan.lines.items() if size >= 2**20},
                "" if plan is None else plan.moment,
            )
        )
    return tuple(rows)


def highest(rows: tuple[StageMemory, ...]) -> float:
    """The longest bar."""
    return max((figure or 0.0 for row in rows for figure in (row.planned, row.measured)), default=0)
