"""lora-sku and the textbook side by side: same pairs, same weights, turn by turn.

Each has a process of its own: in one, each would find the other's gaps on the C heap, and pay for
them. Taking turns step by step lets a drifting machine hit both alike; who waits, sleeps.
"""

import gc
import multiprocessing
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Self

import torch
from torch import Tensor

from benchmarks.baselines.textbook import Textbook
from benchmarks.clock import Clock
from benchmarks.ours import Ours
from benchmarks.setup import Setup
from benchmarks.worker import serve
from lora_sku.data import Encoder, StepDraw
from lora_sku.model import ACQUIRED
from lora_sku.recipe import LossesSection
from lora_sku.step import StepLosses

OURS, TEXTBOOK = "ours", "textbook"
_DEFAULT = "default"  # PEFT's own name for an adapter


@dataclass(frozen=True)
class Timing:
    """One optimizer step of one method.

    Attributes:
        step: Number of the pairs; both methods have a timing for it.
        method: Whose.
        seconds: Wall time of the whole step.
        parts: Seconds of `clock.PARTS`; what is left is tokenizing, output projection and losses.
        losses: Of the step.
    """

    step: int
    method: str
    seconds: float
    parts: dict[str, float]
    losses: StepLosses


@dataclass(frozen=True)
class Agreement:
    """How far the two adapters are from each other after some steps.

    Attributes:
        steps: Steps that both made.
        largest_difference: Of any number of the adapters.
        largest_change: By which any number moved from its start, in ours.
        relative_difference: Norm of the difference over the norm of the change.
        largest_loss_difference: Of any step's loss, relative.
    """

    steps: int
    largest_difference: float
    largest_change: float
    relative_difference: float
    largest_loss_difference: float


Source = Callable[[], tuple[Encoder, Sequence[StepDraw]]]
"""What encodes, and the pairs of each step; it must be picklable."""


class SideBySide:
    """Both methods on the same setup, encoder and draws; a context that ends their processes.

    Raises:
        AssertionError: if the two adapters do not begin the same.
    """

    def __init__(self, setup: Setup, source: Source, steps: int) -> None:
        self._steps = steps
        self._workers = {name: _Worker(name, setup, source) for name in (OURS, TEXTBOOK)}

    def __enter__(self) -> Self:
        ours, textbook = self._adapters()
        assert ours.keys() == textbook.keys()
        assert all(torch.equal(ours[n], textbook[n]) for n in ours)
        self._start = ours
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.end()

    def run(self, *, warm_up: int = 0) -> list[Timing]:
        """A step of each on every draw, in turns; the first ``warm_up`` draws are not returned."""
        timings = []
        for step in range(self._steps):
            order = (OURS, TEXTBOOK) if step % 2 == 0 else (TEXTBOOK, OURS)
            timings += [self._workers[name].step(step) for name in order]
        return [timing for timing in timings if timing.step >= warm_up]

    def agreement(self, timings: Sequence[Timing]) -> Agreement:
        """Compare the adapters now, and the losses of the steps that led here."""
        ours, textbook = self._adapters()
        difference = [ours[n] - textbook[n] for n in ours]
        change = [ours[n] - self._start[n] for n in ours]
        losses = {(timing.step, timing.method): timing.losses.loss for timing in timings}
        steps = {step for step, _ in losses}
        return Agreement(
            steps=len(steps),
            largest_difference=_largest(difference),
            largest_change=_largest(change),
            relative_difference=_norm(difference) / _norm(change),
            largest_loss_difference=max(
                abs(losses[s, OURS] - losses[s, TEXTBOOK]) / abs(losses[s, TEXTBOOK]) for s in steps
            ),
        )

    def _adapters(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self._workers[OURS].adapter(), self._workers[TEXTBOOK].adapter()


class _Worker:
    """A method in its own process, which does what it is sent: a step's number, or None for its
    adapter.
    """

    def __init__(self, name: str, setup: Setup, source: Source) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        work = pickle.dumps(partial(_serve, name=name, setup=setup, source=source))
        self._process = context.Process(target=serve, args=(there, work))
        self._process.start()
        there.close()  # so that a dead process is an EOFError here

    def step(self, number: int) -> Timing:
        timing = self._ask(number)
        assert isinstance(timing, Timing)
        return timing

    def adapter(self) -> dict[str, Tensor]:
        """Copies of the trained factors."""
        return {name: torch.from_numpy(array) for name, array in self._ask(None).items()}

    def end(self) -> None:
        self._here.close()
        self._process.join()

    def _ask(self, what: int | None) -> Any:
        self._here.send(what)
        return self._here.recv()


def _serve(parent: Connection, name: str, setup: Setup, source: Source) -> None:
    encoder, draws = source()
    clock = Clock(setup.device)
    kind = Ours if name == OURS else Textbook
    method = kind(setup, encoder, draws, clock)
    while True:
        try:
            asked = parent.recv()
        except EOFError:
            return
        parent.send(_adapter(method) if asked is None else _timed(method, asked, name, clock))


def _timed(method: Ours | Textbook, step: int, name: str, clock: Clock) -> Timing:
    gc.collect()
    clock.take()
    began = clock.now()
    losses = method.step(step)
    return Timing(step, name, clock.now() - began, clock.take(), losses)


def _adapter(method: Ours | Textbook) -> dict[str, Any]:
    """Name -> array, under lora-sku's names."""
    return {
        name.replace(f".{_DEFAULT}.", f".{ACQUIRED}."): parameter.detach().cpu().numpy()
        for name, parameter in _peft_model(method).named_parameters()
        if parameter.requires_grad
    }


def _peft_model(method: Ours | Textbook) -> Any:
    return method.model.peft_model if isinstance(method, Ours) else method.model


def without_preservation(setup: Setup) -> Setup:
    """The same setup with the forget part alone, to tell its time from normal prompts'."""
    losses = setup.losses
    no_weight = losses.preservation_divergence.model_copy(update={"weight": 0.0})
    section: LossesSection = losses.model_copy(update={"preservation_divergence": no_weight})
    return replace(setup, losses=section)


def _largest(tensors: Sequence[Tensor]) -> float:
    return max(float(tensor.abs().max()) for tensor in tensors)


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack([tensor.double().norm() for tensor in tensors]).norm())
