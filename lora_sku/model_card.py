"""The README.md that travels with a negated adapter: what it is, what it did, what it cannot do."""

from lora_sku.evaluation import GENERATION_SPLITS, Evaluation
from lora_sku.recipe import Recipe

_CARD = """---
base_model: {base}
library_name: peft
pipeline_tag: text-generation
tags: [lora, unlearning, safety]
---
# Negated adapter for {base}

Made with lora-sku {version} by SKU (Liu et al., Findings of ACL 2024) with LoRA: an adapter was
trained to hold harmful knowledge, then its sign was flipped (strength {strength:g}). It is an
ordinary PEFT LoRA adapter; its scaling is folded in (lora_alpha = r).

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```

| on prompts that were not trained on | base | unlearned |
|---|---|---|
{rows}

Forget set: `{forget}`. Retain set: `{retain}`. Trained on a base stored as {quantization}.

## What it does not do
- It can be undone: whoever has these files can leave them out, or flip the sign back and get an
  adapter that makes the base more harmful.
- Fine-tuning on a few examples can bring much of the knowledge back.
- A higher loss on the given harmful answers does not prove that the model's own answers are
  harmless. Read its generations before you rely on it.
- Merge it only into the full-precision base: rounding to 4 bits erases most of the change.
"""


def model_card(recipe: Recipe, evaluation: Evaluation, *, version: str) -> str:
    """The card's Markdown."""
    rows = [
        f"| {label} | {base} | {unlearned} |" for label, base, unlearned in table_rows(evaluation)
    ]
    return _CARD.format(
        base=recipe.base_model.path,
        version=version,
        strength=recipe.negation.strength,
        rows="\n".join(rows),
        forget=recipe.data.forget.path,
        retain=recipe.data.retain.path,
        quantization=recipe.base_model.quantization,
    )


def table_rows(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """(what, base, unlearned) for people: the evaluation's figures as short text."""
    base, unlearned = evaluation.base, evaluation.unlearned

    def percent(value: float) -> str:
        return f"{100 * value:.0f} %"

    return [
        (
            "NLL of harmful answers, trained prompts (nats/token)",
            f"{base.forget_seen_nll:.3f}",
            f"{unlearned.forget_seen_nll:.3f}",
        ),
        (
            "NLL of harmful answers, unseen prompts (nats/token)",
            f"{base.forget_unseen_nll:.3f}",
            f"{unlearned.forget_unseen_nll:.3f}",
        ),
        (
            "Perplexity of normal answers, unseen prompts",
            f"{base.retain_perplexity:.2f}",
            f"{unlearned.retain_perplexity:.2f}",
        ),
        (
            "KL to the base at those answers (nats/token)",
            f"{base.retain_kl:.3f}",
            f"{unlearned.retain_kl:.3f}",
        ),
        *(
            (
                f"{name} answers to unseen {kind} prompts",
                percent(before[split]),
                percent(after[split]),
            )
            for name, before, after in (
                ("Refusing", base.refusal_rate, unlearned.refusal_rate),
                ("Degenerate", base.degenerate_rate, unlearned.degenerate_rate),
            )
            for kind, split in zip(("harmful", "normal"), GENERATION_SPLITS, strict=True)
        ),
    ]
