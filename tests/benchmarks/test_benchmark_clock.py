"""The clock tells passes with gradient from theta_o's, and forgets what was taken."""

import time

import pytest
import torch
from bench_tools import make_clock
from torch import Tensor, nn

from benchmarks.clock import BACKWARD, FORWARD, OPTIMIZER, PARTS, REFERENCE


class Slow(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        time.sleep(0.02)
        return super().forward(x)


def test_parts_are_told_apart() -> None:
    clock, decoder = make_clock(), Slow(2, 2)
    clock.watch(decoder)
    loss = decoder(torch.ones(1, 2)).sum()
    with torch.no_grad():
        decoder(torch.ones(1, 2))
        decoder(torch.ones(1, 2))
    clock.backward(loss)
    with clock.part(OPTIMIZER):
        time.sleep(0.01)
    taken = clock.take()
    assert list(taken) == list(PARTS)
    assert taken[FORWARD] == pytest.approx(0.02, abs=0.01)
    assert taken[REFERENCE] == pytest.approx(0.04, abs=0.015)
    assert taken[OPTIMIZER] == pytest.approx(0.01, abs=0.005)
    assert taken[BACKWARD] > 0
    assert decoder.weight.grad is not None
    assert set(clock.take().values()) == {0.0}
