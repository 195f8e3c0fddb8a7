"""Cures and refusals for a freshly loaded base: what today's libraries get wrong in silence."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from lora_sku.attention import run_decoder, use_packed_attention
from lora_sku.data import Encoded, collate, pack
from lora_sku.errors import ModelError
from lora_sku.head import Head

# Of a hidden state's length, where it differs most. In bf16 two kernels that are equally near the
# fp32 states differ by up to 6 % (30 layers of SmolLM2); a layout or positions that are not heeded
# by 50 % and more.
PACKING_TOLERANCE = 0.2


def without_dropout(config: PretrainedConfig) -> dict[str, float]:
    """Every dropout rate of ``config`` that is not 0, as overrides to 0.

    theta_o's pass and the trained pass run in the same (training) mode, because int8 layers compute
    differently in the other one; any dropout would make theta_o noisy.
    """
    rates = config.to_dict()
    return {
        key: 0.0
        for key, value in rates.items()
        if ("drop" in key) and isinstance(value, float) and value > 0
    }


def forbid_cpu_repacking(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights at the first evaluation on an AVX512 CPU.

    The repacked layers have no gradient and cannot be dequantized any more, so training after an
    evaluation would go wrong without a word.
    """
    import bitsandbytes as bnb

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def linear_layer_names(model: nn.Module) -> list[str]:
    """The distinct last names of the decoder's linear layers: what target_modules may list."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    return sorted(
        {
            path.rpartition(".")[2]
            for path, module in model.named_modules()
            if isinstance(module, nn.Linear) and module is not head
        }
    )


def refuse_unsound_base(model: PreTrainedModel, name: str, *, quantized: bool) -> None:
    """Refuse a base whose weights are not all here, or partly escaped the quantization.

    Raises:
        ModelError: for offloaded or meta tensors, and for fused mixture-of-experts weights.
    """
    for key, parameter in model.named_parameters():
        if parameter.device.type == "meta":
            raise ModelError(
                f"the weight {key} is offloaded or was never loaded",
                where=name,
                remedy="The whole base must fit on one device: choose base_model.quantization: nf4"
                " or a smaller model.",
            )
    if quantized:
        refuse_fused_experts(model, name)


def refuse_fused_experts(model: nn.Module, name: str) -> None:
    """Refuse a base that is to be quantized while some of its matrices would stay as they are.

    Raises:
        ModelError: for fused mixture-of-experts weights.
    """
    for key, parameter in model.named_parameters():
        if parameter.ndim == 3 and parameter.is_floating_point():
            raise ModelError(
                f"the weight {key} holds fused mixture-of-experts matrices, which bitsandbytes"
                " leaves unquantized and LoRA does not reach",
                where=name,
                remedy="Choose a dense model.",
            )


def output_head(model: PreTrainedModel, name: str) -> Head:
    """The base's output projection, proved equal to the model's own logits on a short probe.

    Raises:
        ModelError: if the architecture computes its logits in a way that `Head` does not know.
    """
    head = read_head(model, name)
    _prove_head(model, head, name)
    return head


def read_head(model: PreTrainedModel, name: str) -> Head:
    """The output projection as the configuration describes it; `output_head` proves it.

    Raises:
        ModelError: if there is no linear one.
    """
    projection = model.get_output_embeddings()
    if not isinstance(projection, nn.Linear):
        raise ModelError(
            "the model has no linear output projection", where=name, remedy="Choose another model."
        )
    settings: dict[str, Any] = model.config.to_dict()
    scale = float(settings.get("logit_scale") or 1.0) / float(settings.get("logits_scaling") or 1.0)
    return Head(
        weight_VD=projection.weight,
        bias_V=projection.bias,
        scale=scale,
        softcap=settings.get("final_logit_softcapping"),
    )


@torch.no_grad()
def _prove_head(model: PreTrainedModel, head: Head, name: str) -> None:
    vocabulary = len(head.weight_VD)
    probe_BT = torch.arange(8, device=head.weight_VD.device)[None] * (vocabulary // 8)
    expected_TV = model(input_ids=probe_BT, use_cache=False).logits[0].float()
    hidden_TD = model.get_decoder()(input_ids=probe_BT, use_cache=False).last_hidden_state[0]
    actual_TV = head.logits(hidden_TD)
    scale = expected_TV.abs().max()
    if expected_TV.shape != actual_TV.shape or (expected_TV - actual_TV).abs().max() > 0.02 * scale:
        raise ModelError(
            f"the architecture {type(model).__name__} computes its logits in a way that lora-sku"
            " does not know",
            where=name,
            remedy="Choose another model, or report its name.",
        )


@dataclass(frozen=True, slots=True)
class Packing:
    """Whether prompts and their answers may share a packed row.

    Attributes:
        refused: Why not; None if the architecture was proved to compute the same.
        longest: A prompt with an answer must not be longer, or a sliding window would cut it.
    """

    refused: str | None
    longest: int | None = None

    def takes(self, tokens: int) -> bool:
        """Whether a prompt with an answer of altogether ``tokens`` may be packed."""
        return self.refused is None and (self.longest is None or tokens <= self.longest)


@torch.no_grad()
def prove_packing(model: PreTrainedModel) -> Packing:
    """Run two prompts with two answers each as a packed row and as rows of their own, and compare.

    A model that does not heed the layout or the positions is off by as much as its states are
    large; one that does, by rounding.
    """
    name = type(model).__name__
    decoder = model.get_decoder()
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        return Packing(f"{name} takes no position ids")
    if not use_packed_attention(model):
        return Packing(f"{name} has an attention of its own")
    pairs = [[_probe_pair(start, end) for end in (40, 50)] for start in (0, 20)]
    apart = collate([pair for group in pairs for pair in group], pad_id=0).to(model.device)
    packed = pack(pairs).to(model.device)
    expected_ND, actual_ND = (
        run_decoder(decoder, batch.input_ids, batch.layout).flatten(0, 1)[batch.sources].float()
        for batch in (apart, packed)
    )
    error = (actual_ND - expected_ND).norm(dim=-1) / expected_ND.norm(dim=-1)
    if not error.max() <= PACKING_TOLERANCE:
        return Packing(f"{name} computes packed rows differently")
    return Packing(None, model.config.get_text_config().to_dict().get("sliding_window"))


def _probe_pair(start: int, end: int) -> Encoded:
    prompt, answer = range(start, start + 6), range(end, end + 4)
    return Encoded((*prompt, *answer), len(prompt), False, False)
