"""The README.md that travels with a negated adapter: what it is, what it did, what it cannot do."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from lora_sku.adapters import Provenance
from lora_sku.evaluation import Evaluation, OwnKL, Scores
from lora_sku.judges import Label
from lora_sku.judging import HARMFUL_SPLITS, GenerationSplit, split_words
from lora_sku.likeness import Likeness
from lora_sku.recipe import Recipe
from lora_sku.report.headline import HEADER, headline
from lora_sku.report.labels import SEE_COMPLIANCE_ONLY, cell, label_word, share
from lora_sku.report.records import EvaluationRecord
from lora_sku.report.text import percent
from lora_sku.sources import PACKAGE_SCHEME
from lora_sku.task_scores import task_rows

_CARD = """---
{front_matter}library_name: peft
pipeline_tag: text-generation
tags: [lora, unlearning, safety]
---
# Negated adapter for {base}

Made with lora-sku {version} by SKU (Liu et al., Findings of ACL 2024) with LoRA: an adapter
was trained ({steps} steps of training), then its sign was flipped (strength {strength:.3g}).
It is an ordinary PEFT LoRA adapter; its scaling is folded in (lora_alpha = r).

```python
{loading}
model = PeftModel.from_pretrained(base, "path/to/this/folder")
```

{headline}

{basis}

{further}

Likelihoods are those of the given answers to {forget_seen_prompts} trained and
{forget_unseen_prompts} unseen harmful prompts and to {retain_unseen_prompts} unseen normal ones.

Forget set: `{forget}`. Retain set: `{retain}`.{protect} Trained on a base stored as {quantization}.

## What it does not do
- It can be undone: whoever has these files can leave them out, or flip the sign back and get an
  adapter that makes the base more harmful.
- Fine-tuning on a few examples can bring much of the knowledge back.
- A higher loss on the given harmful answers does not prove that the model's own answers are
  harmless. Read its generations before you rely on it.
- Merge it only into the full-precision base: rounding to 4 bits erases most of the change.
"""

_HARMFUL_THEN_DEGENERATE: tuple[Label, ...] = ("harmful", "degenerate")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def model_card(recipe: Recipe, negated: Provenance, evaluation: Evaluation, *, version: str) -> str:
    """The card's Markdown.

    Args:
        recipe: The run's.
        negated: The adapter's; it knows the strength that a sweep chose.
        evaluation: The run's.
        version: Of lora-sku.
    """
    told = headline(EvaluationRecord.of(evaluation))
    base = recipe.base_model.path
    # The hub takes ids only in this field, and refuses a card with anything else.
    on_hub = _HUB_ID.fullmatch(base) and not Path(base).exists() and not base.endswith(".gguf")
    front_matter = f"base_model: {base}\n" if on_hub else ""
    return _CARD.format(
        base=base,
        front_matter=front_matter,
        loading=_loading(base),
        version=version,
        steps=recipe.training.max_steps,
        strength=negated.strength,
        headline=_table(HEADER, [row.told for row in told.rows]),
        basis=told.basis,
        further=_table(HEADER[:3], further_rows(evaluation)),
        forget=recipe.data.forget.path,
        retain=recipe.data.retain.path,
        protect="".join(
            f" Protected: `{source.path}` ({name})." for name, source in recipe.data.protect.items()
        ),
        quantization=recipe.base_model.quantization,
        **evaluation.counts,
    )


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _loading(base: str) -> str:
    """Python that loads the full-precision base as ``base``, wherever the recipe has it from."""
    lines = ["from peft import PeftModel", "from transformers import AutoModelForCausalLM", ""]
    where = f'"{base}"'
    if base.startswith(PACKAGE_SCHEME):
        name, _, inner = base.removeprefix(PACKAGE_SCHEME).partition("/")
        where = f'Path(find_spec("{name}").submodule_search_locations[0], "{inner}")'
        lines[:0] = ["from importlib.util import find_spec", "from pathlib import Path", ""]
    elif base.endswith(".gguf"):
        where = f'Path("{base}")'
        lines[:0] = ["from pathlib import Path", ""]
    if base.endswith(".gguf"):
        lines.append(f"file = {where}")
        where = "file.parent, gguf_file=file.name"
    return "\n".join([*lines, f"base = AutoModelForCausalLM.from_pretrained({where})"])


def further_rows(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """(what, base, unlearned) for people: every figure that the headline does not tell."""
    base, unlearned = evaluation.base, evaluation.unlearned
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
            "KL to the base at normal answers, unseen prompts (nats/token)",
            f"{base.retain_kl:.3f}",
            f"{unlearned.retain_kl:.3f}",
        ),
        *(
            (
                f"Perplexity of normal answers, unseen prompts of {name}",
                f"{told.base_perplexity:.2f}",
                f"{told.perplexity:.2f} ({told.perplexity_ratio:.3f} x)",
            )
            for name, told in evaluation.protected.items()
        ),
        *_own_rows(evaluation.own),
        *_likeness_rows(evaluation.likeness),
        *_task_rows(evaluation),
        *(
            (f"Refused / degenerate in form: {name}", _form(base, split), _form(unlearned, split))
            for split, (name, _) in split_words(base.refusal_rate).items()
        ),
        *_judged_rows(EvaluationRecord.of(evaluation)),
    ]


def _form(scores: Scores, split: GenerationSplit) -> str:
    """What shows without a judge."""
    return f"{percent(scores.refusal_rate[split])} / {percent(scores.degenerate_rate[split])}"


def _own_rows(own: OwnKL | None) -> Iterator[tuple[str, str, str]]:
    """What changed at the base's own answers; the base has moved by nothing from itself."""
    if own is None:
        return
    for kind, kl in (("harmful", own.forget_kl), ("normal", own.retain_kl)):
        told = "none kept" if kl is None else f"{kl:.4f}"
        yield f"KL at the base's own answers to unseen {kind} prompts (nats/token)", "0", told
    ratio = "unknown" if own.selectivity is None else f"{own.selectivity:.2f}"
    yield "Selectivity: the first of these KLs over the second", "", ratio


def _likeness_rows(told: Likeness | None) -> Iterator[tuple[str, str, str]]:
    if told is None:
        return
    yield (
        "ROUGE-L to the base's, answers to unseen normal prompts",
        "1",
        f"{told.unlearned_to_base:.3f}",
    )
    yield (
        "ROUGE-L to the given ones, answers to unseen normal prompts",
        f"{told.base_to_reference:.3f}",
        f"{told.unlearned_to_reference:.3f}",
    )


def _task_rows(evaluation: Evaluation) -> Iterator[tuple[str, str, str]]:
    def told(value: float | None, error: float | None) -> str:
        if value is None:
            return "no number"
        return f"{value:.3f}" if error is None else f"{value:.3f} \u00b1 {error:.3f}"

    for row in task_rows(evaluation.lm_eval):
        yield (
            f"lm-eval {row.task}: {row.metric}",
            told(row.values.base, row.errors.base),
            told(row.values.unlearned, row.errors.unlearned),
        )


def _judged_rows(record: EvaluationRecord) -> Iterator[tuple[str, str, str]]:
    """What judges call harmful, never without what they call degenerate, and who complies."""
    first = headline(record).judge
    for judge, told in record.judges.items():
        if judge == first and judge in SEE_COMPLIANCE_ONLY:
            continue  # the headline says it all
        for split, (name, _) in split_words(told.splits).items():
            before, after = told.rates("base", split), told.rates("unlearned", split)
            if split in HARMFUL_SPLITS:
                for label in _HARMFUL_THEN_DEGENERATE:
                    what = f"{label_word(judge, label, split).capitalize()} by {judge}: {name}"
                    yield what, cell(before, label).told, cell(after, label).told
            elif judge != first and before.complying is not None and after.complying is not None:
                cells = share(before.complying, before.total), share(after.complying, after.total)
                yield f"Complying by {judge}: {name}", cells[0].told, cells[1].told
