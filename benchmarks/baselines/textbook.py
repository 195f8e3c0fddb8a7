"""SKU's step on QLoRA as the libraries' tutorials write it: the same mathematics as lora-sku's.

NF4 with double quantization, PEFT's LoRA, every answer in a row of its own behind its own copy of
the prompt, an attention mask, whole logits, theta_o by PEFT's `disable_adapter`, one joint backward
pass. `prepare_model_for_kbit_training` is left out: it would turn the embeddings and the output
projection into fp32, which costs memory and is other mathematics.
"""

from collections.abc import Sequence

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from benchmarks.baselines.plain import JointStep, Rows, logits_of
from benchmarks.clock import Clock
from benchmarks.setup import Setup
from lora_sku.base_checks import linear_layer_names
from lora_sku.data import Encoder, StepDraw


class Textbook(JointStep):
    """QLoRA with separate rows, whole logits and a joint loss."""

    def __init__(
        self, setup: Setup, encoder: Encoder, draws: Sequence[StepDraw], clock: Clock
    ) -> None:
        model = AutoModelForCausalLM.from_pretrained(
            setup.folder,
            dtype=setup.dtype,
            device_map={"": setup.device},
            quantization_config=_quantization(setup),
            use_safetensors=True,
        )
        model.train()  # never in eval mode without autograd: bitsandbytes would repack on some CPUs
        if setup.training.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(setup.training.seed)
        section = setup.adapter
        targets = section.target_modules
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=section.r,
            lora_alpha=section.lora_alpha,
            target_modules=(
                linear_layer_names(model) if isinstance(targets, str) else list(targets)
            ),
            layers_to_transform=section.layers_to_transform and list(section.layers_to_transform),
            lora_dropout=section.lora_dropout,
        )
        adapted = get_peft_model(model, config)
        self._without_adapter = adapted.disable_adapter
        super().__init__(adapted, setup, setup.training, encoder, draws, clock)
        clock.watch(model.get_decoder())

    @torch.no_grad()
    def negate(self) -> None:
        """Turn the sign of every B factor, in place."""
        for name, parameter in self.model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(-self._setup.strength)

    @torch.no_grad()
    def _reference(self, rows: Rows) -> Tensor:
        with self._without_adapter():
            return logits_of(self.model, rows)


def _quantization(setup: Setup) -> BitsAndBytesConfig | None:
    if setup.base_model.quantization == "none":
        return None
    if setup.base_model.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=setup.base_model.quantization,
        bnb_4bit_compute_dtype=setup.dtype,
        bnb_4bit_use_double_quant=True,
    )
