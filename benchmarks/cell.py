"""One cell of the memory table: one method on one model, alone in its process."""

import gc
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.allocated import AllocatedPeak
from benchmarks.clock import Clock
from benchmarks.methods import METHODS, MethodName
from benchmarks.resident import ResidentSampler, data_bytes, resident
from benchmarks.setup import Method, Setup, papers_losses
from benchmarks.workload import Lengths, id_pairs, recipe_draws
from lora_sku.data import Encoder, StepDraw
from lora_sku.memory import GIB, PeakMeter
from lora_sku.recipe import AdapterSection, BaseModelSection, Quantization, TrainingSection
from lora_sku.recipe_file import load_recipe


@dataclass(frozen=True)
class Cell:
    """What to measure.

    Attributes:
        method: Which way of doing SKU.
        recipe: A recipe's name or file: its model, data and settings are taken, and the four
            attributes below are not looked at.
        model: `base_model.path`; the adapter is r = 16 on all linear layers, with checkpointing.
        quantization: Of the base, where the method knows one.
        compute_dtype: As in a recipe.
        lengths: Of the random token ids.
        steps: Optimizer steps.
        limit_gib: Memory that the cell's process may take on a CPU, libraries not counted; None is
            no limit.
        traced: Count live tensors in training, on a CPU, instead of all that `measure` reads.
    """

    method: MethodName
    recipe: str | None = None
    model: str = ""
    quantization: Quantization = "nf4"
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    lengths: Lengths | None = None
    steps: int = 2
    limit_gib: float | None = None
    traced: bool = False

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Cell":
        """What `dataclasses.asdict` made of a cell."""
        lengths = values["lengths"]
        return cls(**values | {"lengths": lengths and Lengths(**lengths)})


def measure(cell: Cell) -> dict[str, Any]:
    """Load, train and negate; every phase's peak in GiB and seconds, for JSON."""
    setup, encoder, draws = _from_recipe(cell) if cell.recipe else _from_lengths(cell)
    device = setup.device
    if cell.traced:
        return {"live_tensors_gib": _live_tensors_gib(cell, (setup, encoder, draws))}
    phases = _Phases(PeakMeter(device))
    with phases.phase("load"):
        method: Method = METHODS[cell.method](setup, encoder, draws, Clock(device))
    with phases.phase("train"):
        losses = [method.step(number) for number in range(cell.steps)]
    with phases.phase("negate"):
        method.negate()
    return {
        "cell": asdict(cell),
        "device": str(device),
        "dtype": str(setup.dtype).removeprefix("torch."),
        "phases": phases.figures,
        "losses": [step.loss for step in losses],
        "answer_tokens": losses[-1].answer_tokens,
    }


def _live_tensors_gib(cell: Cell, inputs: "_Inputs") -> float:
    """In a process of its own, because the profiler's records would count as the cell's memory."""
    setup, encoder, draws = inputs
    method: Method = METHODS[cell.method](setup, encoder, draws, Clock(setup.device))
    with AllocatedPeak() as peak:
        for number in range(cell.steps):
            method.step(number)
    return peak.bytes / GIB


def limit_memory(limit_gib: float) -> None:
    """Refuse this process more than ``limit_gib`` beyond what it has: it fails, and no other does.

    Called when the libraries are loaded, because some of them hang when they get no memory.
    """
    limit = data_bytes() + int(limit_gib * GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def above_weights_gib(result: Mapping[str, Any]) -> float:
    """What training needs beyond the loaded model, from what `measure` returned.

    On a CPU only the process's own memory counts. Pages of the base's files stay mapped behind the
    weights that are not quantized, and come in when they are first read: a method that reads them
    while it loads would look better than one that does so in its first step.
    """
    load, train = result["phases"]["load"], result["phases"]["train"]
    if train["reserved_gib"] is None and train["peak_anonymous_gib"] is not None:
        return float(train["peak_anonymous_gib"] - load["after_anonymous_gib"])
    return float(train["peak_gib"] - load["after_gib"])


class _Phases:
    def __init__(self, meter: PeakMeter) -> None:
        self._meter = meter
        self.figures: dict[str, dict[str, float | None]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        gc.collect()
        self._meter.start()
        before = self._meter.read()
        began = time.perf_counter()
        with ResidentSampler() as sampler:
            yield
            gc.collect()
        seconds = time.perf_counter() - began
        peak = self._meter.read()
        self._meter.start()  # the mark falls to what is in use, so reading it tells that
        after = self._meter.read()
        highest, now = sampler.peak, resident()
        self.figures[name] = {
            **peak.as_dict(),
            "before_gib": before.working_gib,
            "peak_gib": peak.working_gib,
            "after_gib": after.working_gib,
            "peak_anonymous_gib": None if highest is None else highest.anonymous_gib,
            "peak_file_gib": None if highest is None else highest.file_gib,
            "after_anonymous_gib": None if now is None else now.anonymous_gib,
            "after_file_gib": None if now is None else now.file_gib,
            "seconds": seconds,
        }


_Inputs = tuple[Setup, Encoder, Sequence[StepDraw]]


def _from_recipe(cell: Cell) -> _Inputs:
    assert cell.recipe is not None
    recipe = load_recipe(cell.recipe)
    return Setup.of(recipe), *recipe_draws(recipe, cell.steps)


def _from_lengths(cell: Cell) -> _Inputs:
    lengths = cell.lengths
    assert lengths is not None, "a cell needs a recipe, or a model and lengths"
    setup = Setup(
        BaseModelSection(
            path=cell.model, quantization=cell.quantization, compute_dtype=cell.compute_dtype
        ),
        AdapterSection(),
        papers_losses(lengths.responses),
        TrainingSection(max_steps=cell.steps, per_device_train_batch_size=lengths.prompts),
    )
    encoder, draws = id_pairs(setup, lengths, cell.steps)
    return setup, encoder, draws
