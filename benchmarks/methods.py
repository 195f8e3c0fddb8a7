"""The measured methods by name."""

from collections.abc import Callable, Sequence
from typing import Literal

from benchmarks.baselines.full import Full
from benchmarks.baselines.published import Published
from benchmarks.baselines.textbook import Textbook
from benchmarks.clock import Clock
from benchmarks.ours import Ours
from benchmarks.setup import Method, Setup
from lora_sku.data import Encoder, StepDraw

MethodName = Literal["ours", "textbook", "published", "full"]
Builder = Callable[[Setup, Encoder, Sequence[StepDraw], Clock], Method]

METHODS: dict[MethodName, Builder] = {
    "ours": Ours,
    "textbook": Textbook,
    "published": Published,
    "full": Full,
}
