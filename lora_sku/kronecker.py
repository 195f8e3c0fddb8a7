"""Dividing the B of one layer by a Kronecker-factored curvature, s^2 E (x) G.

G is of the size O x O, in a 7B model up to 11008 x 11008 for each of 64 layers, so it is not formed
where it is wide: with S the gradients at P positions, G = S^T S / P, and the smaller of S^T S and
S S^T is solved with (the matrix inversion lemma).

Source: Martens and Grosse 2015, 'Optimizing Neural Networks with Kronecker-factored Approximate
Curvature' (arXiv 1503.05671).

Shape suffixes: P positions, O out features, R rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class OutputSample:
    """What a layer's B is measured by.

    Attributes:
        gradient_PO: At the layer's output, in the model's dtype, on the CPU.
        response_PR: A x there, float32, on the CPU.
    """

    gradient_PO: Tensor
    response_PR: Tensor


class Kronecker:
    """F of one layer's B, to divide by.

    Args:
        sample: At the drawn positions.
        scaling: s.
        damping: Share of each factor's mean eigenvalue that is added to it.
        device: Where it is solved; in float64.
    """

    def __init__(
        self, sample: OutputSample, scaling: float, damping: float, device: torch.device
    ) -> None:
        positions, features = sample.gradient_PO.shape
        s_PO = sample.gradient_PO.to(device, torch.float64)
        r_PR = sample.response_PR.to(device, torch.float64)
        moment_RR = (r_PR.T @ r_PR).mul_(scaling**2 / positions)
        # An A that reads nothing gives no gradient to divide either, so any ridge will do.
        moment_RR.diagonal().add_(damping * float(moment_RR.diagonal().mean()) or 1.0)
        self._by_rank = torch.linalg.cholesky(moment_RR)
        # S^T S / P + rho, and its like in the other order: P times it is solved with.
        self._positions = positions
        self._rho = damping * float(torch.linalg.vector_norm(s_PO)) ** 2 / features
        self._sample_PO = s_PO if positions < features else None
        product = s_PO.T @ s_PO if self._sample_PO is None else s_PO @ s_PO.T
        product.diagonal().add_(self._rho)
        self._by_output = torch.linalg.cholesky(product)

    def divide(self, b_OR: Tensor) -> Tensor:
        """(G + rho)^-1 B (E + rho')^-1 / s^2, in B's dtype and on its device."""
        x_OR = torch.cholesky_solve(b_OR.to(self._by_rank).T, self._by_rank).T
        if self._sample_PO is None:
            x_OR = torch.cholesky_solve(x_OR, self._by_output)
        else:
            inner_PR = torch.cholesky_solve(self._sample_PO @ x_OR, self._by_output)
            x_OR = (x_OR - self._sample_PO.T @ inner_PR) / self._rho
        return (x_OR * self._positions).to(b_OR)


def kronecker_bytes(features: int, positions: int) -> int:
    """What a `Kronecker` makes beside its sample: that in float64, the product and its factor."""
    return 8 * (positions * features + 2 * min(features, positions) ** 2)
