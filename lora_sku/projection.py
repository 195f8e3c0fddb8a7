"""Retain-aware negation: what forget inputs feel of a task vector and retain inputs do not.

The projected delta keeps its effect on forget inputs and has none on retain inputs. It minimises

    mean over forget tokens |(dW' - dW) x|^2 + mu * mean over retain tokens |dW' x|^2 + rho |dW'|^2

and the minimum has a closed form, ridge regression with the delta's own effect as its target:

    dW' = dW C_f M^-1,   M = C_f + mu C_r + rho 1,   C = X^T X / tokens

Since dW = B A, it changes A alone: A' = A C_f M^-1. Rank, B and the file format stay as they are.
Both C are means over tokens, so mu has no unit and means the same in every layer. The ridge rho is
a small share of C_f's mean eigenvalue: it decides what A' is where neither set has inputs (0).

Two ways to the same A', whichever forms the smaller matrix, I x I or (F + R) x (F + R). The second
holds because C_f = Z^T E Z and M = Z^T Z + rho 1 with the rows of Z scaled, so that
A' = (A Z^T E) (Z Z^T + rho 1)^-1 Z. Nothing of the size I x I is formed where I is the larger.

What it cannot do: spare inputs that are unlike the retain set. It frees strength where the retain
set looks, and a strength that is chosen there alone may cost more elsewhere than plain negation
would: give it retain prompts as broad as what the model is used for.

Source: the closed-form edits of Meng et al. 2023, 'Mass-Editing Memory in a Transformer' (arXiv
2210.07229, eq. 14) and SAGE (2606.18309), here with a task vector's effect in the place of an edit.

Shape suffixes: I in features, R rank, F forget tokens, N retain tokens, T = F + N, C columns of a
chunk. Everything is float64: the eigenvalues of C span more than float32 resolves.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

# Share of C_f's mean eigenvalue. Small beside any direction that forget inputs use (the leading
# ones hold hundreds of times the mean), large beside float64's rounding of the largest.
RIDGE = 1e-4
_CHUNK_FEATURES = 1024
T = TypeVar("T")
# Samples of layer inputs that are held at the same time.
GROUP_BYTES = 2**30


@dataclass(frozen=True)
class InputSample:
    """One layer input at the drawn positions.

    Attributes:
        modules: Paths of the adapted layers that read it.
        forget_PI: At forget positions, in the model's dtype, on the CPU.
        retain_PI: At retain positions.
    """

    modules: tuple[str, ...]
    forget_PI: Tensor
    retain_PI: Tensor


def sample_groups(items: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    """Neighbours whose samples are held at the same time: `GROUP_BYTES` at most, or a single one.

    Args:
        items: At least one.
        size_of: Bytes of an item's sample.
    """
    group: list[T] = []
    held = 0
    for item in items:
        size = size_of(item)
        if group and held + size > GROUP_BYTES:
            yield group
            group, held = [], 0
        group.append(item)
        held += size
    yield group


class Projector:
    """C_f M^-1 of one layer input, for any mu; the statistics are formed once.

    Args:
        forget_FI: Inputs of forget tokens, any floating dtype.
        retain_NI: Inputs of retain tokens.
        ridge: rho as a share of C_f's mean eigenvalue.
    """

    def __init__(self, forget_FI: Tensor, retain_NI: Tensor, *, ridge: float = RIDGE) -> None:
        tokens, features = len(forget_FI) + len(retain_NI), forget_FI.shape[1]
        way = _ByFeatures if _is_narrow(features, tokens) else _ByTokens
        self._solver: _ByFeatures | _ByTokens = way(forget_FI, retain_NI, ridge)

    def project(self, a_RI: Tensor, mu: float) -> Tensor:
        """A' = A C_f M^-1, in A's dtype and on its device.

        Args:
            a_RI: Factor whose rows read this input.
            mu: Weight of the effect on retain inputs; 0 keeps A wherever forget inputs reach.
        """
        return self.at(mu)(a_RI).to(a_RI)

    def at(self, mu: float) -> Callable[[Tensor], Tensor]:
        """A -> A' in float64 for one mu, for several A: M is factorised once."""
        return self._solver.at(mu)


class _ByFeatures:
    """Forms M itself (I, I)."""

    def __init__(self, forget_FI: Tensor, retain_NI: Tensor, ridge: float) -> None:
        self._forget_II = _second_moment(forget_FI)
        self._retain_II = _second_moment(retain_NI)
        self._rho = ridge * float(self._forget_II.diagonal().mean())

    def at(self, mu: float) -> Callable[[Tensor], Tensor]:
        m_II = torch.add(self._forget_II, self._retain_II, alpha=mu)
        m_II.diagonal().add_(self._rho)
        lower_II = torch.linalg.cholesky(m_II)
        del m_II

        def project(a_RI: Tensor) -> Tensor:
            target_IR = self._forget_II @ a_RI.to(lower_II).T
            return torch.cholesky_solve(target_IR, lower_II).T

        return project


class _ByTokens:
    """Forms products between tokens (T, T); features go by in chunks."""

    def __init__(self, forget_FI: Tensor, retain_NI: Tensor, ridge: float) -> None:
        self._forget_FI, self._retain_NI = forget_FI, retain_NI
        tokens = len(forget_FI) + len(retain_NI)
        self._gram_TT = torch.zeros(tokens, tokens, dtype=torch.float64, device=forget_FI.device)
        for _, z_TC in self._chunks():
            self._gram_TT.addmm_(z_TC, z_TC.T)
        forget_trace = float(self._gram_TT.diagonal()[: len(forget_FI)].sum())
        self._rho = ridge * forget_trace / forget_FI.shape[1]

    def at(self, mu: float) -> Callable[[Tensor], Tensor]:
        scale_T = torch.ones(len(self._gram_TT), dtype=torch.float64, device=self._gram_TT.device)
        forget = len(self._forget_FI)
        scale_T[forget:] = math.sqrt(mu)
        k_TT = self._gram_TT * scale_T
        k_TT *= scale_T[:, None]
        k_TT.diagonal().add_(self._rho)
        lower_TT = torch.linalg.cholesky(k_TT)
        del k_TT

        def project(a_RI: Tensor) -> Tensor:
            a_RI = a_RI.to(lower_TT)
            target_TR = lower_TT.new_zeros(len(lower_TT), len(a_RI))
            for columns, z_TC in self._chunks():
                target_TR[:forget].addmm_(z_TC[:forget], a_RI[:, columns].T)
            weights_TR = torch.cholesky_solve(target_TR, lower_TT) * scale_T[:, None]
            projected_RI = torch.empty_like(a_RI)
            for columns, z_TC in self._chunks():
                projected_RI[:, columns] = weights_TR.T @ z_TC
            return projected_RI

        return project

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Columns of Z without mu: each set's tokens over the square root of their number."""
        for start in range(0, self._forget_FI.shape[1], _CHUNK_FEATURES):
            columns = slice(start, start + _CHUNK_FEATURES)
            width = self._forget_FI[:, columns].shape[1]
            z_TC = self._gram_TT.new_empty(len(self._gram_TT), width)
            forget = len(self._forget_FI)
            for x_TI, part_TC in (
                (self._forget_FI, z_TC[:forget]),
                (self._retain_NI, z_TC[forget:]),
            ):
                part_TC.copy_(x_TI[:, columns]).div_(math.sqrt(len(x_TI)))
            yield columns, z_TC


def solver_bytes(features: int, forget: int, retain: int) -> int:
    """The most that a `Projector` makes beside the samples, in bytes.

    By features: both moments, and either a product with its float64 input or M with its factor. By
    tokens: the product and its scaled copy, and either the factor or two float64 chunks.
    """
    tokens = forget + retain
    if _is_narrow(features, tokens):
        square = features**2
        forming = 2 * square + max(forget, retain) * features
        return 8 * (2 * square + max(forming - square, 2 * square))
    chunk = tokens * min(_CHUNK_FEATURES, features)
    return 8 * (2 * tokens**2 + max(tokens**2, 2 * chunk))


def _is_narrow(features: int, tokens: int) -> bool:
    return features <= tokens


def _second_moment(x_TI: Tensor) -> Tensor:
    """X^T X / T, float64 (I, I)."""
    x_TI = x_TI.double()
    return x_TI.T @ x_TI / len(x_TI)


def projected_rows(
    rows: Mapping[str, Tensor],
    samples: Iterable[InputSample],
    mus: Sequence[float],
    device: torch.device,
) -> dict[float, dict[str, Tensor]]:
    """A' of every module for every mu; each sample is let go before the next one is taken.

    Args:
        rows: Module path -> A (R, I).
        samples: The inputs of all these modules.
        mus: At least one.
        device: Where to solve.

    Returns:
        mu -> module path -> A' (R, I), dtype and device as A.
    """
    projected: dict[float, dict[str, Tensor]] = {mu: {} for mu in mus}
    for sample in samples:
        projector = Projector(sample.forget_PI.to(device), sample.retain_PI.to(device))
        for mu in mus:
            for module in sample.modules:
                projected[mu][module] = projector.project(rows[module], mu)
    return projected
