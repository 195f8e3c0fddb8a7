"""A model's parameters and layers, from its configuration alone: built on the meta device."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lora_sku.attention import use_packed_attention
from lora_sku.base_checks import linear_layer_names, refuse_fused_experts
from lora_sku.errors import AdapterError, ModelError
from lora_sku.recipe import Quantization

ALL_LINEAR = "all-linear"


@dataclass(frozen=True, slots=True)
class LinearShape:
    """A linear layer of the decoder (not the output projection).

    Attributes:
        path: Dotted name in the model.
        in_features: Width of the input.
        out_features: Width of the output.
    """

    path: str
    in_features: int
    out_features: int

    @property
    def weights(self) -> int:
        """Elements of the weight, without a bias."""
        return self.in_features * self.out_features


@dataclass(frozen=True, eq=False)
class ModelShape:
    """What a plan needs to know of a model.

    Attributes:
        name: As the recipe writes it.
        model: The model on the meta device, without dropout.
        linears: Its quantizable and adaptable layers.
        rest_parameters: Parameters outside those layers' weights: embeddings, the output projection
            if it is not tied, norms, biases. A tied one counts once.
        takes_layouts: Its attention can be told of packed rows.
    """

    name: str
    model: PreTrainedModel
    linears: tuple[LinearShape, ...]
    rest_parameters: int
    takes_layouts: bool

    @property
    def parameters(self) -> int:
        """All parameters."""
        return self.rest_parameters + sum(linear.weights for linear in self.linears)

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's layers: its longest list of modules."""
        lists = [m for m in self.model.get_decoder().modules() if isinstance(m, nn.ModuleList)]
        return max(lists, key=len)

    @property
    def hidden_size(self) -> int:
        """D, the output projection's input width."""
        return int(self.model.get_output_embeddings().weight.shape[1])

    @property
    def vocabulary(self) -> int:
        """V, the output projection's output width."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def kv_features(self) -> int:
        """Elements a token of one layer's key and value cache together."""
        settings = self.model.config.to_dict()
        heads = int(settings["num_attention_heads"])
        width = settings.get("head_dim") or int(settings["hidden_size"]) // heads
        return 2 * int(settings.get("num_key_value_heads") or heads) * int(width)

    def adapted(
        self, targets: str | Sequence[str], layers: Sequence[int] | None
    ) -> tuple[LinearShape, ...]:
        """The linear layers that carry an adapter, chosen as PEFT chooses them.

        Raises:
            AdapterError: if there are none.
        """
        chosen = tuple(
            linear
            for linear in self.linears
            if _is_target(linear.path, targets) and _is_in_layers(linear.path, layers)
        )
        if not chosen:
            written = targets if isinstance(targets, str) else ", ".join(targets)
            raise AdapterError(
                f"{written} is no linear layer of {self.name}, at least not of the chosen ones",
                where="adapter.target_modules",
                remedy=f"Linear layers here: {', '.join(linear_layer_names(self.model))}.",
            )
        return chosen


def model_shape(
    config: PretrainedConfig, name: str, dtype: torch.dtype, quantization: Quantization
) -> ModelShape:
    """Build ``config``'s causal language model without weights and read its shapes.

    Raises:
        ModelError: no causal language model, no linear output projection, or fused experts that
            the quantization would miss.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    except (ValueError, KeyError) as error:
        raise ModelError(
            f"transformers knows no causal language model for this configuration: {error}",
            where=name,
            remedy="Choose another model.",
        ) from error
    model.requires_grad_(False)
    model.train()
    if quantization != "none":
        refuse_fused_experts(model, name)
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ModelError(
            "the model has no linear output projection", where=name, remedy="Choose another model."
        )
    linears = tuple(
        LinearShape(path, *linear_features(module))
        for path, module in model.named_modules()
        if is_linear(module) and module is not head
    )
    takes_positions = "position_ids" in inspect.signature(model.get_decoder().forward).parameters
    total = sum(parameter.numel() for parameter in model.parameters())
    return ModelShape(
        name=name,
        model=model,
        linears=linears,
        rest_parameters=total - sum(linear.weights for linear in linears),
        takes_layouts=takes_positions and use_packed_attention(model),
    )


def is_linear(module: nn.Module) -> bool:
    """Whether bitsandbytes quantizes this layer (GPT-2's Conv1D is a transposed linear one)."""
    return isinstance(module, nn.Linear | Conv1D)


def linear_features(module: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    assert isinstance(module, Conv1D)
    return int(module.weight.shape[0]), int(module.weight.shape[1])


def _is_target(path: str, targets: str | Sequence[str]) -> bool:
    if isinstance(targets, str):
        assert targets == ALL_LINEAR
        return True
    return any(path == target or path.endswith(f".{target}") for target in targets)


def _is_in_layers(path: str, layers: Sequence[int] | None) -> bool:
    if layers is None:
        return True
    index = next((int(part) for part in path.split(".") if part.isdigit()), None)
    return index in layers
