"""What an adapter may read: the input directions that forget inputs use and retain inputs do not.

A LoRA's A decides what of a layer's input its delta B A can react to. Here the rows of A are the
leading solutions v of

    C_f v = lambda (C_r + rho 1) v,   C = X^T X / tokens

the directions with the most energy on forget inputs for each unit of it on retain inputs. They are
found before training and stay; B alone is trained. Whatever is learned then, and taken away after,
retain inputs can feel little of it, and half of the gradients and of the optimizer's state is gone.
`projection` cleans a task vector afterwards; this keeps it from getting dirty.

They are found by subspace iteration with the projector itself: A C_f M^-1 has the same eigenvectors
(a solves it with lambda / (lambda + mu)), so nothing of the size I x I is needed where the layer is
wide. Rayleigh and Ritz then sort what the iteration spans.

Related: CorDA (Yang et al. 2024, arXiv 2406.05223) and EVA (Paischer et al. 2024, arXiv 2410.07170)
start a LoRA from the activations of one set; here one set is weighed against another.

Shape suffixes: I in features, R rank, Q rows of the iterated block, P drawn positions.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lora_sku.activations import a_factors, sample_sets
from lora_sku.data import Encoder, Row
from lora_sku.discriminants import add_discriminants, discriminant_rows
from lora_sku.model import AdaptedModel
from lora_sku.projection import InputSample, Projector
from lora_sku.recipe import SubspaceSection

# rho as a share of C_r's mean eigenvalue: a direction that no retain token happened to use is not
# thereby free to use.
RIDGE = 1e-2
# lambda / (lambda + mu) is nearly proportional to lambda where mu is large.
_MU = 100.0
_SPARE_ROWS = 16
_ITERATIONS = 12


def fix_subspace(
    model: AdaptedModel,
    name: str,
    forget: Sequence[Row],
    normal: Sequence[Sequence[Row]],
    encoder: Encoder,
    section: SubspaceSection,
    *,
    rows: int,
    seed: int,
) -> None:
    """Give every adapted layer an A of its input's discriminants and selective directions; freeze.

    Args:
        model: Carries the adapter.
        name: The adapter's.
        forget: Training rows.
        normal: Training rows of every normal set.
        encoder: Tokenizes them.
        section: The recipe's.
        rows: Texts in the model at once.
        seed: Decides which prompts, answers and positions are drawn.

    Raises:
        AdapterError: if an adapted layer does not read every token (a routed expert).
    """
    ranks = {len(layer.lora_A[name].weight) for layer in model.adapted_layers}
    (rank,) = ranks  # one adapter has one rank
    told = section.discriminants
    selective = rank - (0 if told is None else discriminant_rows(rank))
    if selective > 0:
        for sample in sample_sets(model, forget, normal, encoder, section, rows=rows, seed=seed):
            _fix(model, name, sample, selective, seed)
    if told is not None:
        add_discriminants(
            model, name, forget, normal, encoder, prompts=told.prompts, rows=rows, seed=seed
        )
    freeze_rows(model, name)


def freeze_rows(model: AdaptedModel, name: str) -> None:
    """Train B alone from now on."""
    for layer in model.adapted_layers:
        layer.lora_A[name].weight.requires_grad_(False)


@torch.no_grad()
def _fix(model: AdaptedModel, name: str, sample: InputSample, rank: int, seed: int) -> None:
    """Into the first ``rank`` rows."""
    device = model.base.device
    forget_PI, retain_PI = sample.forget_PI.to(device), sample.retain_PI.to(device)
    found_RI = selective_directions(forget_PI, retain_PI, rank=rank, seed=seed)
    for a_RI in a_factors(model, name, sample.modules):
        a_RI[:rank].copy_(found_RI)


def selective_directions(forget_PI: Tensor, retain_PI: Tensor, *, rank: int, seed: int) -> Tensor:
    """The ``rank`` directions of most forget energy for each unit of retain energy.

    Args:
        forget_PI: Inputs of forget tokens, any floating dtype.
        retain_PI: Inputs of retain tokens.
        rank: R, at most I.
        seed: Of the starting block.

    Returns:
        float64 (R, I), the most selective first. Their retain energies are equal; all are scaled
        alike, so that on forget inputs they answer with the energy of PEFT's random A, and a
        learning rate means the same.
    """
    features = forget_PI.shape[1]
    width = min(features, 2 * rank + _SPARE_ROWS)
    mean_f, mean_r = _mean_energy(forget_PI), _mean_energy(retain_PI)
    # The projector's ridge is a share of C_f's mean and stands beside mu C_r.
    projector = Projector(forget_PI, retain_PI, ridge=_MU * RIDGE * mean_r / mean_f)
    step = projector.at(_MU)
    generator = torch.Generator().manual_seed(seed)
    start_QI = torch.randn(width, features, generator=generator, dtype=torch.float64)
    block_QI = _orthonormal(start_QI.to(forget_PI.device))
    for _ in range(_ITERATIONS):
        block_QI = _orthonormal(step(block_QI))
    chosen_RI = _ritz(block_QI, forget_PI, retain_PI, RIDGE * mean_r)[:rank]
    energy = float(_responses(forget_PI, chosen_RI).square().mean())
    usual = mean_f / 3  # Kaiming's uniform A with a = sqrt(5): variance 1 / (3 I)
    return chosen_RI * math.sqrt(usual / energy)


def _ritz(block_QI: Tensor, forget_PI: Tensor, retain_PI: Tensor, rho: float) -> Tensor:
    """The generalized eigenvectors within the block's span, largest first, (Q, I)."""
    of_forget_PQ = _responses(forget_PI, block_QI)
    of_retain_PQ = _responses(retain_PI, block_QI)
    forget_QQ = of_forget_PQ.T @ of_forget_PQ / len(of_forget_PQ)
    retain_QQ = of_retain_PQ.T @ of_retain_PQ / len(of_retain_PQ)
    retain_QQ.diagonal().add_(rho)
    lower_QQ = torch.linalg.cholesky(retain_QQ)
    half_QQ = torch.linalg.solve_triangular(lower_QQ, forget_QQ, upper=False)
    whitened_QQ = torch.linalg.solve_triangular(lower_QQ, half_QQ.T, upper=False)
    _, vectors_QQ = torch.linalg.eigh(whitened_QQ)
    within_QQ = torch.linalg.solve_triangular(lower_QQ.T, vectors_QQ, upper=True)
    found_QI: Tensor = within_QQ.flip(1).T @ block_QI
    return found_QI


def _responses(inputs_PI: Tensor, rows_QI: Tensor) -> Tensor:
    """X rows^T in float64 (P, Q), without a float64 copy of X at once."""
    parts = torch.split(inputs_PI, 1024)
    return torch.cat([part_CI.to(rows_QI) @ rows_QI.T for part_CI in parts])


def _orthonormal(rows_QI: Tensor) -> Tensor:
    columns_IQ: Tensor = torch.linalg.qr(rows_QI.T).Q
    return columns_IQ.T


def _mean_energy(inputs_PI: Tensor) -> float:
    """Trace of C over I."""
    return float(inputs_PI.float().square().sum(1).mean()) / inputs_PI.shape[1]
