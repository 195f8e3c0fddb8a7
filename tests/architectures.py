"""Tiny configurations of the architectures that differ in their heads, norms or attention."""

from typing import Any

from tiny import HIDDEN, VOCABULARY
from transformers import (
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    OPTConfig,
    PhiConfig,
    PretrainedConfig,
    Qwen3Config,
)

TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
SIZES = {"hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA_LIKE: dict[str, Any] = {
    **TOKENS,
    **SIZES,
    "intermediate_size": 128,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
OPT_LIKE: dict[str, Any] = {**TOKENS, **SIZES, "ffn_dim": 128, "max_position_embeddings": 128}
GPT2_LIKE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": HIDDEN,
    "n_layer": 2,
    "n_head": 4,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
ARCHITECTURES: dict[str, PretrainedConfig] = {
    "softcap (Gemma 2)": Gemma2Config(
        **LLAMA_LIKE, head_dim=16, final_logit_softcapping=0.5, sliding_window=16
    ),
    "factor (Cohere)": CohereConfig(**LLAMA_LIKE, logit_scale=0.0625),
    "divisor (Granite)": GraniteConfig(**LLAMA_LIKE, logits_scaling=4.0),
    "bias (Phi)": PhiConfig(**{**LLAMA_LIKE, "num_key_value_heads": 4}),
    "tied (OPT)": OPTConfig(**OPT_LIKE, word_embed_proj_dim=HIDDEN),
    "projected (OPT)": OPTConfig(**OPT_LIKE, word_embed_proj_dim=32),
    "plain (Qwen 3)": Qwen3Config(**LLAMA_LIKE, head_dim=16),
    "Conv1D (GPT-2)": GPT2Config(**GPT2_LIKE),
}
