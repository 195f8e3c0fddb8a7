"""Dividing by a Kronecker-factored curvature: exactly, whichever matrix is the smaller."""

import pytest
import torch
from torch import Tensor

from lora_sku.kronecker import Kronecker, OutputSample, kronecker_bytes
from lora_sku.planning.live import LiveBytes


@pytest.mark.parametrize("positions", [5, 40])  # fewer and more than the 12 out features
def test_dividing_solves_with_both_damped_factors(positions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    gradient_PO = torch.randn(positions, 12, generator=generator, dtype=torch.float64)
    response_PR = torch.randn(positions, 3, generator=generator, dtype=torch.float64)
    b_OR = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    sample = OutputSample(gradient_PO, response_PR)
    found = Kronecker(sample, 2.0, 0.1, torch.device("cpu")).divide(b_OR)

    def damped(rows: Tensor) -> Tensor:
        moment = rows.T @ rows / len(rows)
        return moment + 0.1 * moment.diagonal().mean() * torch.eye(len(moment))

    back = damped(gradient_PO) @ found @ (4.0 * damped(response_PR))
    torch.testing.assert_close(back, b_OR)


@pytest.mark.parametrize(("positions", "features"), [(300, 900), (900, 300)])
def test_it_takes_what_it_says(positions: int, features: int) -> None:
    sample = OutputSample(
        torch.randn(positions, features, dtype=torch.bfloat16), torch.randn(positions, 4)
    )
    b_OR = torch.randn(features, 4)
    with LiveBytes() as live:
        Kronecker(sample, 1.0, 0.1, torch.device("cpu")).divide(b_OR)
    assert live.peak == pytest.approx(kronecker_bytes(features, positions), rel=0.15)
