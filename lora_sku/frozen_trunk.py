"""The layers below the first one with an adapter: whatever the adapter is, they compute the same.

Where the same texts go through the model under one adapter after another, what leaves those layers
is kept after the first pass, and later passes begin there: with the upper two thirds adapted they
leave out a third of the layers, and give the same numbers to the last bit.

Shape suffixes: B rows, T tokens of a row, D hidden size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lora_sku.model import AdaptedModel

_PROBE = ((1, 2, 3, 4), (5, 6, 7, 8))


class FrozenTrunk:
    """The lowest layers of a decoder.

    Args:
        layers: From the first one on; at least one.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self._layers = tuple(layers)

    @property
    def is_frozen(self) -> bool:
        """Whether none of them carries an adapter: another one may have been loaded."""
        return not any(map(_is_adapted, self._layers))

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """Inside, every pass appends the states (B, T, D) that leave the trunk."""
        left: list[Tensor] = []
        handle = self._layers[-1].register_forward_hook(lambda _, __, output: left.append(output))
        try:
            yield left
        finally:
            handle.remove()

    @contextmanager
    def skipped(self, left_BTD: Tensor) -> Iterator[None]:
        """Inside, a pass of the same batch begins above the trunk.

        Args:
            left_BTD: What `watched` saw, on the model's device.
        """
        own = [vars(layer).get("forward") for layer in self._layers]  # accelerate's, if any
        for layer in self._layers:
            layer.forward = lambda *_, **__: left_BTD
        try:
            yield
        finally:
            for layer, forward in zip(self._layers, own, strict=True):
                del layer.forward
                if forward is not None:
                    layer.forward = forward


def frozen_trunk(model: AdaptedModel) -> FrozenTrunk | None:
    """The model's, or None where the first layer is adapted or passes cannot begin above it.

    Every architecture is tried: its layers may pass more to each other than states.
    """
    layers = _below_adapters(model)
    if not layers:
        return None
    trunk = FrozenTrunk(layers)
    return trunk if _is_proved(trunk, model) else None


def _below_adapters(model: AdaptedModel) -> list[nn.Module]:
    for module in model.base.model.get_decoder().modules():
        if isinstance(module, nn.ModuleList):
            adapted = [_is_adapted(layer) for layer in module]
            if any(adapted):
                return list(module)[: adapted.index(True)]
    return []


def _is_adapted(layer: nn.Module) -> bool:
    return any(isinstance(module, LoraLayer) for module in layer.modules())


@torch.no_grad()
def _is_proved(trunk: FrozenTrunk, model: AdaptedModel) -> bool:
    probe_BT = torch.tensor(_PROBE, device=model.base.device)
    with model.reference_mode():
        with trunk.watched() as left:
            whole_BTD = model.hidden_states(probe_BT)
        if len(left) != 1 or not isinstance(left[0], Tensor):
            return False
        try:
            with trunk.skipped(left[0]):
                above_BTD = model.hidden_states(probe_BT)
        except (AttributeError, IndexError, KeyError, TypeError):
            return False  # a layer misses what a lower one hands it beside the states
    return torch.equal(above_BTD, whole_BTD)
