"""What a LoRA adapter must be for its negation to be sound.

The negation of a LoRA adapter is the same adapter with B replaced by -B, which is right only if the
adapter's whole effect is the additive delta ``scaling * B A`` on an unchanged base. One list of
reasons serves the recipe (before training) and `negation` (an adapter from elsewhere).
"""

from collections.abc import Mapping
from typing import Any

from lora_sku.errors import AdapterError

# Initialisations that leave the base weights as they are (PiSSA, OLoRA, CorDA, MiCA, orthogonal and
# LoftQ do not: switched off, such an adapter does not give back the original model).
BASE_KEEPING_INITIALISATIONS = (True, False, "gaussian", "eva")

# Why a PEFT key must be empty (None, False, 0, "none", [], {}). A key that stands neither here nor
# in FREE_KEYS must be empty too: what a later PEFT adds is refused until somebody looks at it.
MUST_BE_EMPTY = {
    "use_dora": "DoRA rescales the whole weight, so its effect is not additive",
    "bias": "a trained bias is no part of the low-rank delta",
    "lora_bias": "a trained bias is no part of the low-rank delta",
    "modules_to_save": "fully trained modules are no part of the low-rank delta",
    "trainable_token_indices": "trained token embeddings are no part of the low-rank delta",
    "target_parameters": "adapters on fused expert parameters have no negation here",
    "layer_replication": "replicated layers share base weights, so the delta is not per layer",
    "alora_invocation_tokens": "an activated LoRA acts on some tokens only",
    "corda_config": "CorDA changes the base weights at its initialisation",
    "loftq_config": "LoftQ changes the base weights at its initialisation",
    "arrow_config": "Arrow routes between adapters, so there is no single delta",
    "lora_ga_config": "LoRA-GA changes the base weights at its initialisation",
    "kasa_config": "KaSA changes the base weights at its initialisation",
    "velora_config": "VeLoRA compresses the activations it learns from",
    "monteclora_config": "a Monte Carlo LoRA has no single delta",
    "use_bdlora": "block-diagonal LoRA stores its factors in another shape",
    "use_qalora": "QALoRA pools the inputs, so its delta is not B A",
}

# PEFT keys that may hold anything: they say where the delta applies or how it is scaled.
FREE_KEYS = frozenset(
    {
        "peft_type",
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "lora_alpha",
        "lora_dropout",
        "use_rslora",
        "init_lora_weights",
        "eva_config",
        "rank_pattern",
        "alpha_pattern",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "fan_in_fan_out",
        "runtime_config",
        "megatron_core",
        "qalora_group_size",
        "ensure_weight_tying",
    }
)


def check_negatable(config: Mapping[str, Any], *, where: str | None = None) -> None:
    """Refuse an adapter configuration whose negation would not be exact.

    Args:
        config: PEFT's LoRA configuration as a mapping; absent keys count as PEFT's defaults.
        where: The file it came from, for the message.

    Raises:
        AdapterError: naming the first offending key, the reason and the remedy.
    """
    for key, value in config.items():
        if key not in FREE_KEYS and value and value != "none":
            reason = MUST_BE_EMPTY.get(key, "lora-sku does not know what it does to the delta")
            raise AdapterError(
                f"{key} is {value!r}, which cannot be negated: {reason}",
                where=where,
                remedy=f"Train a plain LoRA adapter without {key}.",
            )
    initialisation = config.get("init_lora_weights", True)
    if initialisation not in BASE_KEEPING_INITIALISATIONS:
        raise AdapterError(
            f"init_lora_weights is {initialisation!r}, which changes the base weights: switched"
            " off, the adapter no longer gives back the original model",
            where=where,
            remedy="Train with init_lora_weights: true or gaussian.",
        )
