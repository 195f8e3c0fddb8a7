"""Stage 2: theta_u = theta_o - strength * (theta_bad - theta_o), as an ordinary LoRA adapter.

Source: Liu et al. 2024 (arXiv 2402.10058), section 3.3. The adapter's delta ``scaling * B A`` is
the task vector, so its negation keeps A and takes ``B' = -(strength * scaling) B``.

The result is canonical, so that every runtime reads the same delta from it: lora_alpha = r, plain
LoRA scaling of 1, one rank everywhere (smaller ones padded with zeros), no patterns.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_sku.adapters import CONFIG_FILE, LoraFile, Provenance, Role, read_lora, write_lora
from lora_sku.errors import AdapterError, StorageError
from lora_sku.model import AdaptedModel
from lora_sku.storage import atomic_folder

# Relative to the largest entry of the delta; float32 products differ by rounding only.
TOLERANCE = 1e-5
# Deltas from files are compared so many rows at a time: a whole one is as large as a base weight.
ROWS_AT_ONCE = 1024


def negate(
    adapter: Path | str,
    output: Path | str,
    *,
    strength: float = 1.0,
    overwrite: bool = False,
) -> Path:
    """Write the negated adapter, read it back, and compare the two deltas before it gets its name.

    Args:
        adapter: Folder of the acquired adapter.
        output: Folder to write.
        strength: Multiple of the task vector that is taken away; 1 is the paper's.
        overwrite: Replace ``output`` if it exists.

    Returns:
        ``output``.

    Raises:
        AdapterError: if the adapter cannot be negated exactly.
        StorageError: if the folder cannot be written; nothing is left behind then.
    """
    adapter, output = Path(adapter), Path(output)
    if not (strength > 0 and math.isfinite(strength)):
        raise AdapterError(
            f"the strength is {strength}, but it must be a number greater than 0",
            remedy="1 is the paper's; 0 would be no change.",
        )
    if output.resolve() == adapter.resolve():
        raise AdapterError(
            "the negated adapter would replace the one it is made from",
            where=str(output),
            remedy="Choose another output folder.",
        )
    if output.exists() and not overwrite:
        raise StorageError(
            "this folder already exists",
            where=str(output),
            remedy="Choose another --output, or replace it by --overwrite.",
        )
    if output.is_dir() and any(output.iterdir()) and not (output / CONFIG_FILE).is_file():
        raise StorageError(
            "this folder holds something else than an adapter, so it is not replaced",
            where=str(output),
            remedy="Choose another --output.",
        )
    acquired = read_lora(adapter)
    with atomic_folder(output) as temporary:
        write_lora(
            temporary,
            _canonical_config(acquired),
            negated_factors(acquired, strength),
            _flipped(acquired.provenance, strength),
        )
        verify_files(acquired, read_lora(temporary), strength)
    return output


def negated_factors(acquired: LoraFile, strength: float) -> dict[str, tuple[Tensor, Tensor]]:
    """A and -(strength * scaling) B of every module, float32, padded to one rank."""
    rank = _largest_rank(acquired)
    factors = {}
    for module, (a, b) in acquired.factors.items():
        missing = rank - len(a)
        padded_a = torch.nn.functional.pad(a.float(), (0, 0, 0, missing))
        padded_b = torch.nn.functional.pad(b.float(), (0, missing))
        factors[module] = padded_a, padded_b * -(strength * acquired.scaling(module))
    return factors


def verify_files(acquired: LoraFile, negated: LoraFile, strength: float) -> None:
    """Compare two adapters as files: delta(negated) must be -strength * delta(acquired).

    Raises:
        AdapterError: naming the first module that differs.
    """
    assert acquired.factors.keys() == negated.factors.keys()
    for module, (_, b) in acquired.factors.items():
        slices = [slice(at, at + ROWS_AT_ONCE) for at in range(0, len(b), ROWS_AT_ONCE)]
        pairs = ((acquired.delta(module, rows), negated.delta(module, rows)) for rows in slices)
        _compare(module, pairs, strength)


def verify_loaded(model: AdaptedModel, acquired: str, negated: str, strength: float) -> None:
    """The same comparison on the live model, with both deltas as PEFT itself computes them.

    Raises:
        AdapterError: naming the first module that differs.
    """
    pairs = zip(model.deltas(acquired), model.deltas(negated), strict=True)
    for (module, gained), (same_module, taken) in pairs:
        assert module == same_module
        _compare(module, [(gained, taken)], strength)


def _compare(module: str, pairs: Iterable[tuple[Tensor, Tensor]], strength: float) -> None:
    """Compare the deltas (gained, taken) of a module, given whole or in slices; overwrites them."""
    worst, largest = [], []
    for gained, taken in pairs:
        expected = gained.float().mul_(-strength)
        largest.append(_largest(expected))
        worst.append(_largest(taken.float().sub_(expected)))
    error, size = torch.stack(worst).max(), torch.stack(largest).max()
    if not error <= TOLERANCE * size:  # also true for NaN
        raise AdapterError(
            f"the negated delta of {module} is off by {error:.3g}",
            remedy="The adapter holds non-finite numbers, or the disk is faulty: train it again.",
        )


def _largest(values: Tensor) -> Tensor:
    """Largest absolute value, without a copy of all of them."""
    largest: Tensor = torch.linalg.vector_norm(values, ord=math.inf)
    return largest


def _canonical_config(acquired: LoraFile) -> dict[str, Any]:
    rank = _largest_rank(acquired)
    return dict(acquired.config) | {
        "r": rank,
        "lora_alpha": rank,
        "use_rslora": False,
        "rank_pattern": {},
        "alpha_pattern": {},
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "eva_config": None,
        "bias": "none",
        "inference_mode": True,
    }


def _largest_rank(acquired: LoraFile) -> int:
    return max(len(a) for a, _ in acquired.factors.values())


def _flipped(provenance: Provenance | None, strength: float) -> Provenance | None:
    if provenance is None:
        return None
    role: Role = "acquired" if provenance.role == "negated" else "negated"
    return replace(provenance, role=role, strength=strength)
