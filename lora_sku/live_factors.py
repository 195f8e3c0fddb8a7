"""An adapter's B on the live model, replaced in place: another strength without a reload."""

import torch

from lora_sku.model import AdaptedModel


class LiveFactors:
    """A live adapter as a multiple of its task vector.

    Holds a copy of every B in the machine's memory; nothing is added on the GPU.

    Args:
        model: Carries the adapter.
        name: The adapter's.
        multiple: What multiple of the task vector it holds now: 1 for an acquired adapter, -s for
            one that was negated with strength s.
    """

    def __init__(self, model: AdaptedModel, name: str, *, multiple: float = 1.0) -> None:
        self._live = [
            layer.lora_B[name].weight for layer in model.adapted_layers if name in layer.lora_B
        ]
        self._before = [b.detach().cpu().clone() for b in self._live]
        self._multiple = multiple

    @torch.no_grad()
    def negate(self, strength: float) -> None:
        """Make the live adapter -strength x the task vector."""
        for live, before in zip(self._live, self._before, strict=True):
            live.copy_(before * (-strength / self._multiple))

    @torch.no_grad()
    def restore(self) -> None:
        """Put back what was found, bitwise."""
        for live, before in zip(self._live, self._before, strict=True):
            live.copy_(before)
