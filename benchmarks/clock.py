"""Where the seconds of a step go."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

FORWARD, REFERENCE = "forward", "reference"
BACKWARD, OPTIMIZER = "backward", "optimizer"
PARTS = (FORWARD, REFERENCE, BACKWARD, OPTIMIZER)


class Clock:
    """Adds up the wall time of a step's named parts.

    Args:
        device: On CUDA, each part waits for the device, or its time would fall to the next one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = defaultdict(float)
        self._began = 0.0

    def now(self) -> float:
        """Seconds, when all that was asked of the device is done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what runs inside as ``name``."""
        began = self.now()
        yield
        self._seconds[name] += self.now() - began

    def watch(self, decoder: nn.Module) -> None:
        """Count the decoder's passes: those without autograd are theta_o's, the reference."""
        decoder.register_forward_pre_hook(self._enter)
        decoder.register_forward_hook(self._leave)

    def backward(self, loss: Tensor) -> None:
        """Back-propagate ``loss``, counted."""
        with self.part(BACKWARD):
            loss.backward()  # type: ignore[no-untyped-call]

    def take(self) -> dict[str, float]:
        """Seconds of each part since the last call."""
        taken = {name: self._seconds[name] for name in PARTS}
        self._seconds.clear()
        return taken

    def _enter(self, *_: Any) -> None:
        self._began = self.now()

    def _leave(self, *_: Any) -> None:
        name = FORWARD if torch.is_grad_enabled() else REFERENCE
        self._seconds[name] += self.now() - self._began
