"""Real tiny models beside their plans."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny import adapt, load
from torch import Tensor

from lora_sku.data import Layout
from lora_sku.model import AdaptedModel
from lora_sku.planning.layers import LayerBytes, LayerSetup, Tokens
from lora_sku.planning.live import LiveBytes
from lora_sku.planning.shapes import ModelShape, model_shape
from lora_sku.planning.standins import LinearKind, Sink, Source

RANK = 4


@dataclass(frozen=True)
class Pair:
    """A loaded model with an adapter, and the same on the meta device."""

    real: AdaptedModel
    shape: ModelShape
    setup: LayerSetup


def pair(
    folder: Path, quantization: str = "nf4", dtype: torch.dtype = torch.bfloat16, **adapter: Any
) -> Pair:
    name = str(dtype).removeprefix("torch.")
    base = load(folder, quantization, compute_dtype=name)
    real = adapt(base, r=RANK, **adapter)
    real.peft_model.train()
    for parameter in real.trained_parameters().values():
        parameter.grad = torch.zeros_like(parameter)
    config = type(base.model.config).from_pretrained(folder)
    shape = model_shape(config, "tiny", dtype, quantization)  # type: ignore[arg-type]
    chosen = shape.adapted("all-linear", adapter.get("layers_to_transform"))
    kind = LinearKind(quantization, "cpu")  # type: ignore[arg-type]
    return Pair(real, shape, LayerSetup(kind, RANK, frozenset(w.path for w in chosen)))


def ids_and_layout(load: Tokens) -> tuple[Tensor, Layout | None]:
    ids = torch.randint(5, 200, (load.rows, load.tokens))
    if load.unfolds is None:
        return ids, None
    places = torch.arange(load.unfolds[0] * load.unfolds[1]) % load.tokens
    positions = torch.arange(load.tokens)[None] % load.unfolds[1]
    return ids, Layout(positions, places.view(load.unfolds), torch.arange(load.tokens))


def real_layer_bytes(model: AdaptedModel, index: int, load: Tokens) -> LayerBytes:
    """What a real layer keeps and makes, counted while it computes."""
    layer = model.base.model.get_decoder().layers[index]
    with _caught(layer) as calls, torch.no_grad():
        model.hidden_states(*ids_and_layout(load))
    (args, kwargs) = calls[0]
    hidden = args[0]
    anchor = torch.zeros((), requires_grad=True)
    with LiveBytes() as live:
        x = Source.apply(anchor, tuple(hidden.shape), hidden.dtype)
        y = layer(x, *args[1:], **kwargs)
        y = y if isinstance(y, Tensor) else y[0]
        del x
        forward, saved = live.peak, live.current - y.nbytes
        end = Sink.apply(y)
        del y
        live.reset_peak()
        end.backward()
        return LayerBytes(saved, forward, live.peak)


@contextmanager
def _caught(layer: torch.nn.Module) -> Iterator[list[Any]]:
    calls: list[Any] = []
    handle = layer.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    yield calls
    handle.remove()
