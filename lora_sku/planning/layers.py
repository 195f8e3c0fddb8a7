"""What one decoder layer keeps and what it needs for a moment, counted on the meta device.

Shape suffixes: B rows, T tokens of a row, D hidden size.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from lora_sku.data import Layout
from lora_sku.planning.live import LiveBytes
from lora_sku.planning.shapes import ModelShape, is_linear, linear_features
from lora_sku.planning.standins import FusedAttention, LinearKind, PlannedLinear, Sink, Source


@dataclass(frozen=True, slots=True)
class Tokens:
    """What goes through the model at once.

    Attributes:
        rows: B.
        tokens: T, padding included.
        masked: The rows carry a (B, 1, T, T) mask, as left-padded prompts do; otherwise attention
            is causal and needs none.
        unfolds: The one row is packed, and attention unfolds it into so many rows of such a width.
    """

    rows: int
    tokens: int
    masked: bool = False
    unfolds: tuple[int, int] | None = None

    @property
    def count(self) -> int:
        """B x T."""
        return self.rows * self.tokens


@dataclass(frozen=True, slots=True)
class LayerBytes:
    """One layer's bytes, its input and output as said.

    Attributes:
        saved: Alive between forward and backward, output not counted. Under a layer that keeps its
            input for backward (fp32 compute) the input is in it.
        forward_peak: The most during forward, input and output included.
        backward_peak: The most during backward, what was saved and both gradients included; 0
            without gradient.
    """

    saved: int
    forward_peak: int
    backward_peak: int


@dataclass(frozen=True, slots=True)
class LayerSetup:
    """How a layer's linears run.

    Attributes:
        kind: Quantization, device, the factors' dtype.
        rank: r of the adapter.
        adapted: Paths of the adapted linears; empty is theta_o.
        trains_base: Every weight is trained, as full fine-tuning does.
        trains: False where adapters run but no gradient is wanted.
    """

    kind: LinearKind
    rank: int
    adapted: frozenset[str]
    trains_base: bool = False
    trains: bool = True


def count_layers(shape: ModelShape, setup: LayerSetup, load: Tokens) -> tuple[LayerBytes, ...]:
    """Every decoder layer's bytes, lowest first; layers that look alike are counted once.

    A layer below the lowest adapted one gets no gradient and keeps nothing.
    """
    prefix = _path_of(shape.model, shape.layers)
    counted, reached = [], setup.trains_base
    for index, layer in enumerate(shape.layers):
        path = f"{prefix}.{index}"
        adapted = frozenset(
            name for name, _ in layer.named_modules() if f"{path}.{name}" in setup.adapted
        )
        signature = tuple((name, tuple(p.shape)) for name, p in layer.named_parameters())
        # A hidden state that needs no gradient comes from below the lowest adapter.
        with_grad = setup.trains and (reached or bool(adapted))
        key = _Layer(shape, index, type(layer), signature, adapted, reached, with_grad)
        counted.append(_count(key, setup.kind, setup.rank, setup.trains_base, load))
        reached = reached or bool(adapted)
    return tuple(counted)


def heeds_layouts(shape: ModelShape) -> bool:
    """Whether packed rows reach this model's attention: if not, a run takes a pair a row."""
    probe = Tokens(1, 12, unfolds=(4, 5))
    layer = shape.layers[0]
    if not shape.takes_layouts:
        return False
    inputs = _layer_inputs(shape.model, layer, probe)
    hidden_BTD = torch.empty(inputs.hidden_shape, dtype=inputs.hidden_dtype, device="meta")
    with FusedAttention("cuda", packed=True) as attention, torch.no_grad():
        layer(hidden_BTD, *inputs.args, **inputs.kwargs)
    return bool(attention.rows == 4)


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer up to what decides its bytes; which of the like ones it is does not count."""

    shape: ModelShape
    index: int
    kind: type[nn.Module]
    signature: tuple[Any, ...]
    adapted: frozenset[str]
    input_has_grad: bool
    with_grad: bool

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Layer) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[Any, ...]:
        adapted = (self.adapted, self.input_has_grad, self.with_grad)
        return (id(self.shape.model), self.kind, self.signature, *adapted)


@lru_cache(maxsize=4096)
def _count(key: _Layer, kind: LinearKind, rank: int, trains_base: bool, load: Tokens) -> LayerBytes:
    inputs = _layer_inputs(key.shape.model, key.shape.layers[key.index], load)
    layer = _planned(key.shape.layers[key.index], key.adapted, kind, rank, trains_base)
    shape, dtype = inputs.hidden_shape, inputs.hidden_dtype
    anchor = torch.empty((), device="meta", requires_grad=key.input_has_grad)
    with (
        FusedAttention(kind.device, packed=load.unfolds is not None),
        LiveBytes() as live,
        torch.set_grad_enabled(key.with_grad),
    ):
        hidden_BTD = Source.apply(anchor, shape, dtype)  # type: ignore[no-untyped-call]
        output = layer(hidden_BTD, *inputs.args, **inputs.kwargs)
        output_BTD = output if isinstance(output, torch.Tensor) else output[0]
        del hidden_BTD, output
        forward_peak = live.peak
        if not key.with_grad:
            return LayerBytes(0, forward_peak, 0)
        saved = live.current - output_BTD.nbytes
        end = Sink.apply(output_BTD)  # type: ignore[no-untyped-call]
        del output_BTD
        live.reset_peak()
        end.backward()
        return LayerBytes(saved, forward_peak, live.peak)


def _planned(
    layer: nn.Module, adapted: frozenset[str], kind: LinearKind, rank: int, trains_base: bool
) -> nn.Module:
    """A copy of the layer with stand-ins for its linears, or with trained weights."""
    planned = copy.deepcopy(layer)
    if trains_base:
        for parameter in planned.parameters():
            parameter.requires_grad_(True)
            parameter.grad = torch.empty_like(parameter)
        return planned
    for name, module in list(planned.named_modules()):
        if is_linear(module):
            stand_in = PlannedLinear(*linear_features(module), rank * (name in adapted), kind)
            planned.set_submodule(name, stand_in)
    return planned


@dataclass(frozen=True, slots=True)
class _LayerInputs:
    """What the decoder hands to a layer beside the hidden states."""

    hidden_shape: tuple[int, ...]
    hidden_dtype: torch.dtype
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Reached(Exception):  # noqa: N818 - it ends a forward pass early and is no error
    pass


def _layer_inputs(model: Any, layer: nn.Module, load: Tokens) -> _LayerInputs:
    """Run the decoder up to ``layer`` and take what it gets there."""
    caught: list[_LayerInputs] = []

    def catch(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden_BTD = args[0] if args else kwargs.pop("hidden_states")
        rest = dict(kwargs)
        if not load.masked and load.unfolds is None and "attention_mask" in rest:
            rest["attention_mask"] = None
        caught.append(_LayerInputs(tuple(hidden_BTD.shape), hidden_BTD.dtype, args[1:], rest))
        raise _Reached

    ids_BT = _integers(load.rows, load.tokens)
    # Always with a mask: without one, masks are made from the values of the position ids.
    mask = torch.empty((load.rows, 1, load.tokens, load.tokens), dtype=torch.bool, device="meta")
    place: dict[str, Any] = {"position_ids": ids_BT, "attention_mask": mask}
    if load.unfolds is not None:
        layout = Layout(ids_BT, _integers(*load.unfolds), _integers(load.tokens))
        place |= {"packed_layout": layout, "attention_mask": mask[:, :, :1, :1]}
    with torch.no_grad(), _hook(layer, catch), contextlib.suppress(_Reached):
        model.get_decoder()(input_ids=ids_BT, use_cache=False, **place)
    assert caught, "the decoder never ran this layer"
    return caught[0]


@contextlib.contextmanager
def _hook(layer: nn.Module, catch: Any) -> Iterator[None]:
    handle = layer.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _integers(*shape: int) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.int64, device="meta")


def _path_of(model: nn.Module, wanted: nn.Module) -> str:
    return next(str(name) for name, module in model.named_modules() if module is wanted)
