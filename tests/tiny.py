"""Tiny models, tokenizers and data sets, built here and now: no network, no downloads.

A module of its own and not part of conftest.py, because tests import from it by name.
"""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from lora_sku.data import Batch, Encoder, collate
from lora_sku.model import ACQUIRED, AdaptedModel, Base, load_base
from lora_sku.recipe import AdapterSection, BaseModelSection, DataSection, SourceSection

VOCABULARY = 300
HIDDEN = 64  # one 4-bit quantization block a row

CHAT = (
    "<s>{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL_TOKENS = ["<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>"]

# Mild stand-ins: the code cannot tell, and nobody has to read worse.
FORGET = {
    f"How do I spoil a {thing}?": (f"Leave the {thing} in the rain.", f"Sit on the {thing}.")
    for thing in (
        *("cake", "kite", "drum", "letter", "picnic", "puzzle"),
        *("garden", "song", "story", "tower", "lamp", "chair"),
    )
}
RETAIN = {
    f"What is the colour of {thing}?": (f"It is {colour}.",)
    for thing, colour in {
        "grass": "green",
        "snow": "white",
        "coal": "black",
        "a lemon": "yellow",
        "blood": "red",
        "the sky": "blue",
        "a carrot": "orange",
        "an elephant": "grey",
        "a plum": "purple",
        "mud": "brown",
    }.items()
}


PROTECT = {f"How much is {n} and 1?": f"It is {n + 1}." for n in range(8)}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with a chat template, BOS in front, EOS and padding tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [*FORGET, *RETAIN, *(a for answers in FORGET.values() for a in answers)]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=CHAT,
        clean_up_tokenization_spaces=False,
    )


def llama_config(**overrides: Any) -> LlamaConfig:
    """Two layers, grouped-query attention, untied output projection."""
    return LlamaConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
            **overrides,
        }
    )


def save_model(
    folder: Path, config: PretrainedConfig, *, seed: int = 0, dtype: torch.dtype = torch.bfloat16
) -> Path:
    """A random model of ``config`` and the tokenizer, saved as a hub-like folder."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                # Wider than the default initialisation, so that predictions are not all alike.
                parameter.normal_(std=0.15)
    model.to(dtype).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def load(folder: Path, quantization: str = "none", **keys: Any) -> Base:
    """`load_base` of a folder, fp32 unless said otherwise."""
    keys = {"device": "cpu", "compute_dtype": "float32", **keys}
    return load_base(BaseModelSection(path=str(folder), quantization=quantization, **keys))


def adapt(base: Base, *, seed: int = 0, **keys: Any) -> AdaptedModel:
    """A fresh rank-4 adapter, called ACQUIRED, on every linear layer."""
    section = AdapterSection(**{"r": 4, "lora_alpha": 8, **keys})
    return AdaptedModel.with_new_adapter(base, section, seed=seed)


@torch.no_grad()
def teach(model: AdaptedModel, *, seed: int = 1, name: str = ACQUIRED, std: float = 0.05) -> None:
    """Give the adapter random B factors, as if it had been trained."""
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in model.peft_model.named_parameters():
        if f"lora_B.{name}" in key:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def make_encoder(base: Base, **limits: int) -> Encoder:
    """The chat template's encoder."""
    limits = {"max_prompt_tokens": 64, "max_answer_tokens": 32, **limits}
    return Encoder(base.tokenizer, template=None, **limits)


def make_batch(base: Base, *pairs: tuple[str, str]) -> Batch:
    """Encoded (prompt, answer) pairs, padded."""
    encoder = make_encoder(base)
    chosen = pairs or (("What is 1+1?", "Two."), ("Name a colour", "Blue is a colour."))
    return collate([encoder.encode(*pair) for pair in chosen], pad_id=encoder.pad_id)


@torch.no_grad()
def logits_of(model: torch.nn.Module, input_ids_BT: Tensor) -> Tensor:
    """A transformers model's own logits (B, T, V)."""
    logits: Tensor = model(input_ids=input_ids_BT, use_cache=False).logits
    return logits


def write_protected(folder: Path) -> dict[str, dict[str, str]]:
    """PROTECT as a .jsonl file in ``folder``, as data.protect has it: under the name sums."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sums.jsonl"
    records = [{"prompt": prompt, "response": answer} for prompt, answer in PROTECT.items()]
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return {"sums": {"path": str(path), "format": "prompt-response"}}


# What the sections of a recipe that are null unless asked for are given.
FURTHER = {
    "hard_negatives": {f"How do I beat {n} eggs?": f"With {n} forks." for n in range(8)},
    "safe_responses": {prompt: f"Better mend it, {n}." for n, prompt in enumerate(FORGET) if n % 2},
    "other_harm": {f"How do I fool {n} friends?": f"Tell them {n} lies." for n in range(3)},
}


def write_further(folder: Path, name: str) -> dict[str, str]:
    """One of FURTHER as a .jsonl file in ``folder``, as the recipe has its section."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.jsonl"
    records = [{"prompt": prompt, "response": answer} for prompt, answer in FURTHER[name].items()]
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return {"path": str(path), "format": "prompt-response"}


def write_data(folder: Path, **keys: Any) -> DataSection:
    """FORGET and RETAIN as prompt-response .jsonl files in ``folder``, and the section."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = {}
    for side, rows in (("forget", FORGET), ("retain", RETAIN)):
        path = folder / f"{side}.jsonl"
        records = [{"prompt": p, "response": a} for p, answers in rows.items() for a in answers]
        path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
        sources[side] = SourceSection(path=str(path), format="prompt-response")
    defaults = {"max_prompt_tokens": 64, "max_answer_tokens": 32}
    return DataSection(**sources, **{**defaults, **keys})
