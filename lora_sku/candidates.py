"""The negations that a recipe leaves open: A of every module for each mu that may be chosen."""

from collections.abc import Sequence

from lora_sku.activations import sample_sets
from lora_sku.data import Encoder, Row
from lora_sku.live_factors import LiveFactors, RowFactors
from lora_sku.model import AdaptedModel
from lora_sku.projection import projected_rows
from lora_sku.recipe import ProjectionSection

Candidates = dict[float | None, RowFactors | None]
"""mu -> A of every module; None -> None is plain negation."""


def candidates(
    model: AdaptedModel,
    live: LiveFactors,
    forget: Sequence[Row],
    retain: Sequence[Sequence[Row]],
    encoder: Encoder,
    section: ProjectionSection,
    *,
    rows: int,
    seed: int,
) -> Candidates:
    """Project the live adapter for every open mu.

    Args:
        model: The base with the adapter.
        live: The adapter's factors.
        forget: Training rows.
        retain: Training rows of every normal set.
        encoder: Tokenizes them.
        section: The recipe's.
        rows: Texts in the model at once.
        seed: Decides which prompts, answers and positions are drawn.
    """
    mus = section.open_mus
    samples = sample_sets(model, forget, retain, encoder, section, rows=rows, seed=seed)
    projecting = [mu for mu in mus if mu is not None]
    projected = projected_rows(live.rows, samples, projecting, model.base.device)
    return {mu: None if mu is None else projected[mu] for mu in mus}
