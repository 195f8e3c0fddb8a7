"""The promises that the planner's report checks."""

from collections.abc import Mapping, Sequence

from benchmarks.comparison import Comparison
from benchmarks.report import Target
from lora_sku.memory import GIB
from lora_sku.planning.plan import StagePlan


def planner_targets(
    measured: Sequence[Comparison],
    others: Sequence[Comparison],
    seven: Mapping[str, StagePlan],
    thirteen: Mapping[str, StagePlan],
) -> list[Target]:
    """From the rows, and from every method's plan of a 7B and a 13B model."""
    own = [row for row in measured if " ours" in row.name]
    our_7b = seven["lora-sku"].total
    return [
        Target(
            "largest error of the tensors, all measured cells",
            10,
            _worst([row.live_error for row in measured]),
            False,
            "%",
        ),
        Target(
            "of the resident peak on a CPU, lora-sku's cells",
            10,
            _worst([row.error for row in own if not row.on_cuda]),
            False,
            "%",
        ),
        Target(
            "of what was reserved on a GPU, lora-sku's cells",
            10,
            _worst([row.error for row in own if row.on_cuda]),
            False,
            "%",
        ),
        Target(
            "largest error, published GPU rows",
            15,
            _worst([row.error for row in others]),
            False,
            "%",
        ),
        Target("7B at 1,024 tokens, tensors", 5.0, seven["lora-sku"].tensors / GIB, False, "GiB"),
        Target("the same with CUDA's context", 5.0, our_7b / GIB, False, "GiB"),
        Target(
            "13B at 1,024 tokens, tensors", 8.5, thirteen["lora-sku"].tensors / GIB, False, "GiB"
        ),
        Target("the same with CUDA's context", 8.5, thirteen["lora-sku"].total / GIB, False, "GiB"),
        Target(
            "7B as published in fp32, over ours",
            20,
            seven["published fp32"].total / our_7b,
            True,
            "x",
        ),
        Target(
            "7B as published in bf16, over ours",
            20,
            seven["published bf16"].total / our_7b,
            True,
            "x",
        ),
    ]


def _worst(errors: Sequence[float | None]) -> float | None:
    """The largest error in percent; None if none is known."""
    return max((100 * abs(error) for error in errors if error is not None), default=None)
