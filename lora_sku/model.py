"""One base in memory: loaded once, quantized, frozen; LoRA adapters come and go on it.

The base with its adapters switched off IS the original model theta_o. There is never a second copy.

Shape suffixes: B rows, T tokens of a row, N answer tokens of a batch, D hidden size.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lora_sku.attention import run_decoder
from lora_sku.base_checks import (
    Packing,
    forbid_cpu_repacking,
    linear_layer_names,
    output_head,
    prove_packing,
    refuse_unsound_base,
)
from lora_sku.base_weights import load_weights
from lora_sku.data import Batch, Layout
from lora_sku.devices import choose_compute_dtype, choose_device
from lora_sku.errors import AdapterError, ModelError
from lora_sku.gguf_base import unpack_gguf
from lora_sku.head import Head
from lora_sku.heap import release_as_it_grows
from lora_sku.int8_linear import keep_no_int8_inputs
from lora_sku.lora_forward import use_lean_forward
from lora_sku.recipe import AdapterSection, BaseModelSection, Quantization
from lora_sku.sources import Located, locate

ACQUIRED: Final = "acquired"  # theta_o + tau
NEGATED: Final = "negated"  # theta_o - tau, which ships
Side = Literal["acquired", "negated"]


@dataclass(frozen=True)
class Base:
    """The frozen base and what belongs to it.

    Attributes:
        model: The quantized causal language model; every parameter frozen.
        tokenizer: Its tokenizer.
        head: Its output projection.
        located: Where it came from, with the commit of a hub model.
        fingerprint: SHA-256 of the input embeddings rounded to bf16: the same under every
            quantization, another one for another model.
        quantization: How its linear layers are stored.
        compute_dtype: Dtype of the matrix products and of what is not quantized.
        packing: Whether prompts and answers may share a row.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    head: Head
    located: Located
    fingerprint: str
    quantization: Quantization
    compute_dtype: torch.dtype
    packing: Packing

    @property
    def device(self) -> torch.device:
        """Where the base is."""
        return self.head.weight_VD.device


def locate_base(section: BaseModelSection) -> tuple[Located, Path]:
    """Where the base was found, and the folder to load it from (a GGUF file is unpacked)."""
    located = locate(section.path, kind="model", revision=section.revision)
    if located.path.is_dir():
        return located, located.path
    if located.path.suffix != ".gguf":
        raise ModelError(
            "a base model is a folder, a hub id or a .gguf file, and this is neither",
            where=section.path,
            remedy="Name the folder that holds config.json and the .safetensors files.",
        )
    return located, unpack_gguf(located.path)


def load_tokenizer(section: BaseModelSection) -> PreTrainedTokenizerBase:
    """The base's tokenizer alone, without weights."""
    return _load_tokenizer(locate_base(section)[1], section.path)


def load_base(section: BaseModelSection) -> Base:
    """Load the base once, quantized and frozen, and cure or refuse what would go wrong in silence.

    Raises:
        SourceError: if the model cannot be found.
        ModelError: if it cannot be loaded, quantized or adapted soundly.
    """
    device = choose_device(section)
    dtype = choose_compute_dtype(section, device)
    located, folder = locate_base(section)
    tokenizer = _load_tokenizer(folder, section.path)
    try:
        model = load_weights(folder, quantization=section.quantization, dtype=dtype, device=device)
    except torch.cuda.OutOfMemoryError as error:
        raise ModelError(
            "the base does not fit into this GPU's memory",
            where=section.path,
            remedy="Choose base_model.quantization: nf4, a smaller model, or free the GPU.",
        ) from error
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(
            f"transformers cannot load this model: {error}",
            where=section.path,
            remedy="It needs a causal language model with config.json and .safetensors files.",
        ) from error
    forbid_cpu_repacking(model.requires_grad_(False))
    keep_no_int8_inputs(model)
    refuse_unsound_base(model, section.path, quantized=section.quantization != "none")
    return Base(
        model=model,
        tokenizer=tokenizer,
        head=output_head(model, section.path),
        located=located,
        fingerprint=_fingerprint(model),
        quantization=section.quantization,
        compute_dtype=dtype,
        packing=prove_packing(model),
    )


class AdaptedModel:
    """The base with LoRA adapters on it.

    `hidden_states` and everything built on it run the active adapter, or theta_o inside
    `reference_mode`.
    """

    def __init__(self, base: Base, peft_model: PeftModel) -> None:
        self.base = base
        self.peft_model = peft_model
        self._decoder = base.model.get_decoder()
        self._layers = [m for m in peft_model.modules() if isinstance(m, LoraLayer)]
        assert self._layers, "PEFT adapted no layer"
        for layer in self._layers:
            use_lean_forward(layer)
        if base.device.type == "cpu":
            release_as_it_grows(self._layers)

    @classmethod
    def with_new_adapter(cls, base: Base, section: AdapterSection, *, seed: int) -> Self:
        """Put a fresh adapter on the base: A random by ``seed``, B zero, so the delta is 0.

        Raises:
            AdapterError: if ``adapter.target_modules`` names no linear layer of this model.
        """
        torch.manual_seed(seed)
        targets = section.target_modules
        if targets == "all-linear" and section.layers_to_transform is not None:
            targets = tuple(linear_layer_names(base.model))  # PEFT takes no layers with all-linear
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=section.r,
            lora_alpha=section.lora_alpha,
            target_modules=targets if isinstance(targets, str) else list(targets),
            layers_to_transform=section.layers_to_transform and list(section.layers_to_transform),
            lora_dropout=section.lora_dropout,
            use_rslora=section.use_rslora,
            init_lora_weights=section.init_lora_weights,
        )
        try:
            peft_model = get_peft_model(base.model, config, adapter_name=ACQUIRED)
        except ValueError as error:
            raise AdapterError(
                f"PEFT cannot put this adapter on {base.located.written}: {error}",
                where="adapter",
                remedy=f"Linear layers here: {', '.join(linear_layer_names(base.model))}.",
            ) from error
        # PEFT writes the folder that transformers loaded from, which is this machine's own cache.
        config.base_model_name_or_path = base.located.written
        config.revision = base.located.revision
        model = cls(base, peft_model)
        model._refuse_adapted_embeddings()
        return model

    @classmethod
    def with_adapter_from(cls, base: Base, folder: Path, name: str = NEGATED) -> Self:
        """Load a saved adapter onto the base, frozen."""
        return cls(base, PeftModel.from_pretrained(base.model, str(folder), adapter_name=name))

    def load_adapter(self, folder: Path, name: str) -> None:
        """Load a further adapter, frozen, and make it the active one."""
        self.peft_model.load_adapter(str(folder), adapter_name=name)
        self.peft_model.set_adapter(name, inference_mode=True)

    def delete_adapter(self, name: str) -> None:
        """Take an adapter off the model and free its memory."""
        self.peft_model.delete_adapter(name)

    def deltas(self, name: str) -> Iterator[tuple[str, Tensor]]:
        """(module, weight delta) of an adapter as PEFT itself computes it, one at a time."""
        for path, module in self.peft_model.named_modules():
            if isinstance(module, LoraLayer) and name in module.lora_A:
                yield path, module.get_delta_weight(name)

    @property
    def adapted_layers(self) -> tuple[LoraLayer, ...]:
        """The layers that carry adapters."""
        return tuple(self._layers)

    def trained_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The factors that stage 1 updates, by name, in a fixed order."""
        return {n: p for n, p in self.peft_model.named_parameters() if p.requires_grad}

    def _refuse_adapted_embeddings(self) -> None:
        ends = (self.base.model.get_input_embeddings(), self.base.model.get_output_embeddings())
        if any(isinstance(end, LoraLayer) for end in ends):
            raise AdapterError(
                "the input embeddings or the output projection carry an adapter, which most"
                " runtimes cannot load",
                where="adapter.target_modules",
                remedy=f"Linear layers here: {', '.join(linear_layer_names(self.base.model))}.",
            )

    @contextmanager
    def reference_mode(self) -> Iterator[None]:
        """Inside, the model is theta_o: every adapter is off.

        Flips the layers' flag itself: PEFT's own context walks the whole model and toggles
        requires_grad, which is over a hundred times slower and would detach a running step.
        """
        before = [layer._disable_adapters for layer in self._layers]
        for layer in self._layers:
            layer._disable_adapters = True
        try:
            yield
        finally:
            for layer, disabled in zip(self._layers, before, strict=True):
                layer._disable_adapters = disabled

    @contextmanager
    def on(self, side: Side) -> Iterator[None]:
        """Inside, the active adapter shows one of its faces; outside, theta_o + tau.

        The sign of the layers' scaling is flipped: exact, free, and undone bitwise. A backward pass
        of what was computed inside belongs inside too, for checkpointed layers compute again there.
        """
        if side == ACQUIRED:
            yield
            return
        self._flip()
        try:
            yield
        finally:
            self._flip()

    def _flip(self) -> None:
        for layer in self._layers:
            for name in layer.active_adapters:
                layer.scaling[name] = -layer.scaling[name]

    def hidden_states(self, input_ids_BT: Tensor, layout: Layout | None = None) -> Tensor:
        """Final hidden states (B, T, D), the output projection's input.

        Rows are padded on the right, where a causal model's answers never look: no mask is needed
        and the fast attention path stays open. With a layout the one row is packed.
        """
        return run_decoder(self._decoder, input_ids_BT, layout)

    def answer_states(self, batch: Batch) -> Tensor:
        """Hidden states (N, D) that predict ``batch.targets``."""
        hidden_BTD = self.hidden_states(batch.input_ids, batch.layout)
        return hidden_BTD.flatten(0, 1).index_select(0, batch.sources)


def _load_tokenizer(folder: Path, name: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except (ValueError, OSError, KeyError) as error:
        raise ModelError(
            f"transformers cannot load its tokenizer: {error}",
            where=name,
            remedy="The folder needs tokenizer.json or tokenizer.model beside config.json.",
        ) from error
    return tokenizer


def _fingerprint(model: PreTrainedModel) -> str:
    digest = hashlib.sha256()
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, torch.nn.Embedding)
    for rows in torch.split(embeddings.weight.detach(), 4096):
        bits = rows.to(torch.bfloat16).contiguous().view(torch.int16).cpu().numpy()
        digest.update(bits.tobytes())
    return digest.hexdigest()
