"""lora-sku and the textbook side by side in one process: same pairs, same weights, turn by turn.

Taking turns step by step lets a drifting machine hit both alike.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from benchmarks.baselines.textbook import Textbook
from benchmarks.clock import Clock
from benchmarks.ours import Ours
from benchmarks.setup import Setup
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


class SideBySide:
    """Both methods on the same setup, encoder and draws.

    Raises:
        AssertionError: if the two adapters do not begin the same.
    """

    def __init__(self, setup: Setup, encoder: Encoder, draws: Sequence[StepDraw]) -> None:
        self._draws = draws
        self._clocks = {name: Clock(setup.device) for name in (OURS, TEXTBOOK)}
        self._ours = Ours(setup, encoder, draws, self._clocks[OURS])
        self._textbook = Textbook(setup, encoder, draws, self._clocks[TEXTBOOK])
        self._start = {n: p.detach().clone() for n, p in self._adapters()[0].items()}
        assert all(torch.equal(self._start[n], p) for n, p in self._adapters()[1].items())

    def run(self, *, warm_up: int = 0) -> list[Timing]:
        """A step of each on every draw, in turns; the first ``warm_up`` draws are not returned."""
        timings = []
        for step in range(len(self._draws)):
            order = (OURS, TEXTBOOK) if step % 2 == 0 else (TEXTBOOK, OURS)
            timings += [self._timed(step, name) for name in order]
        return [timing for timing in timings if timing.step >= warm_up]

    def agreement(self, timings: Sequence[Timing]) -> Agreement:
        """Compare the adapters now, and the losses of the steps that led here."""
        ours, textbook = self._adapters()
        difference = [(ours[n] - textbook[n]).detach() for n in ours]
        change = [(ours[n] - self._start[n]).detach() for n in ours]
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

    def _timed(self, step: int, name: str) -> Timing:
        method = self._ours if name == OURS else self._textbook
        clock = self._clocks[name]
        gc.collect()
        clock.take()
        began = clock.now()
        losses = method.step(step)
        return Timing(step, name, clock.now() - began, clock.take(), losses)

    def _adapters(self) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
        textbook = self._textbook.model.named_parameters()
        return self._ours.model.trained_parameters(), {
            name.replace(f".{_DEFAULT}.", f".{ACQUIRED}."): parameter
            for name, parameter in textbook
            if parameter.requires_grad
        }


def without_preservation(setup: Setup) -> Setup:
    """The same setup with the forget part alone, to tell its time from the retain part's."""
    losses = setup.losses
    no_weight = losses.preservation_divergence.model_copy(update={"weight": 0.0})
    section: LossesSection = losses.model_copy(update={"preservation_divergence": no_weight})
    return replace(setup, losses=section)


def _largest(tensors: Sequence[Tensor]) -> float:
    return max(float(tensor.abs().max()) for tensor in tensors)


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(torch.stack([tensor.double().norm() for tensor in tensors]).norm())
