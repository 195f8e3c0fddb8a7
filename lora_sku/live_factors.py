"""An adapter's factors on the live model, replaced in place: another strength without a reload."""

from collections.abc import Mapping

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from lora_sku.model import AdaptedModel

RowFactors = Mapping[str, Tensor]
"""Module path -> A (r, in)."""


class LiveFactors:
    """A live adapter as a multiple of its task vector.

    Holds a copy of both factors in the machine's memory; nothing is added on the GPU.

    Args:
        model: Carries the adapter.
        name: The adapter's.
        multiple: What multiple of the task vector it holds now: 1 for an acquired adapter, -s for
            one that was negated with strength s.
    """

    def __init__(self, model: AdaptedModel, name: str, *, multiple: float = 1.0) -> None:
        self._live = {
            path: (layer.lora_A[name].weight, layer.lora_B[name].weight)
            for path, layer in model.base.model.named_modules()
            if isinstance(layer, LoraLayer) and name in layer.lora_A
        }
        self._before = {
            path: (a.detach().cpu().clone(), b.detach().cpu().clone())
            for path, (a, b) in self._live.items()
        }
        self._multiple = multiple

    @property
    def rows(self) -> RowFactors:
        """A of every module as it was found, on the CPU."""
        return {path: a for path, (a, _) in self._before.items()}

    @torch.no_grad()
    def negate(self, strength: float, rows: RowFactors | None = None) -> None:
        """Make the live adapter -strength x the task vector.

        Args:
            strength: Multiple that is taken away.
            rows: A of every module in the place of its own, as `projected_rows` makes it.
        """
        for path, (a, b) in self._live.items():
            own_a, own_b = self._before[path]
            a.copy_(own_a if rows is None else rows[path])
            b.copy_(own_b * (-strength / self._multiple))

    @torch.no_grad()
    def restore(self, rows: RowFactors | None = None) -> None:
        """Put back what was found, bitwise; with ``rows``, all but A."""
        for path, (a, b) in self._live.items():
            own_a, own_b = self._before[path]
            a.copy_(own_a if rows is None else rows[path])
            b.copy_(own_b)
