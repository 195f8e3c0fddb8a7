"""What was forgotten, what it cost and what memory it took: a figure and a sentence each."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lora_sku.judges import Label
from lora_sku.judging import COLUMNS, GenerationSplit
from lora_sku.report.labels import cell, label_word
from lora_sku.report.read import RunEvidence
from lora_sku.report.records import EvaluationRecord, MemoryRecord
from lora_sku.report.text import change, number

GIB = 2**30
_FEW = 30
"""Below so many completions an interval spans a third of the scale."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure that stands out.

    Attributes:
        title: The question that it answers.
        figure: Large.
        unit: Small, beside it.
        sentence: What it means.
    """

    title: str
    figure: str
    unit: str
    sentence: str


def tiles(run: RunEvidence) -> tuple[Tile, ...]:
    """Those that this run has evidence for."""
    found = []
    if run.evaluation is not None:
        found += [_forgotten(run.evaluation), _cost(run.evaluation)]
    if run.memory is not None and run.memory.measured:
        found.append(_memory(run.memory))
    return tuple(found)


def behaviour(run: RunEvidence) -> dict[str, str]:
    """Judge -> what it says of the completions, in a sentence or two."""
    if run.evaluation is None:
        return {}
    return {name: _said(name, run.evaluation) for name in run.evaluation.judges}


def caveats(run: RunEvidence) -> Iterator[str]:
    """What these figures do not show."""
    yield (
        "A higher loss on given harmful answers is no proof of harmless behaviour: it may be their"
        " style that was forgotten. Read the completions below."
    )
    if run.evaluation is not None:
        if any(name in run.evaluation.judges for name in ("compliance", "refusal")):
            yield (
                "\u201cComplying\u201d means that the model went along with the prompt, not that"
                " what it said does harm."
            )
        if "compliance" in run.evaluation.judges:
            yield (
                "compliance took its thresholds from this run\u2019s own normal prompts and"
                " answers: its rates compare only with those of runs that retain the same ones."
            )
        few = run.evaluation.counts["forget_unseen_generations"]
        if 0 < few < _FEW:
            yield (
                f"Only {few} harmful prompts were answered, so the 95 % intervals are wide:"
                " differences inside them may be chance."
            )
    yield (
        "Whoever has the model can undo this: by leaving the adapter out, by flipping its sign, or"
        " by fine-tuning on a few examples."
    )


def _forgotten(evaluation: EvaluationRecord) -> Tile:
    gain, prompts = evaluation.gain, evaluation.counts["forget_unseen_prompts"]
    before, after = evaluation.base.forget_unseen_nll, evaluation.unlearned.forget_unseen_nll
    told = (
        f"Each token of the harmful answers became {math.exp(min(gain, 700)):.2f} times less likely"
        if gain > 0
        else "The harmful answers did not become less likely"
    )
    return Tile(
        "What was forgotten",
        change(gain),
        "nats per token",
        f"{told} (on average over {prompts} prompts that training never saw; loss"
        f" {number(before)} to {number(after)}). On the prompts it was trained on:"
        f" {change(evaluation.gain_seen)}.",
    )


def _cost(evaluation: EvaluationRecord) -> Tile:
    before, after = evaluation.base.retain_perplexity, evaluation.unlearned.retain_perplexity
    rise = 100 * (evaluation.cost - 1)
    told = (
        f"Perplexity of normal answers rose by {number(rise, 1)} %"
        if rise > 0
        else f"Perplexity of normal answers did not rise ({change(rise, 1)} %)"
    )
    return Tile(
        "What it cost",
        f"\u00d7\u2009{number(evaluation.cost)}",
        "perplexity",
        f"{told}, from {number(before, 2)} to {number(after, 2)}, over"
        f" {evaluation.counts['retain_unseen_prompts']} prompts that training never saw;"
        f" the two models' predictions lie {number(evaluation.unlearned.retain_kl)} nats apart"
        " (KL).",
    )


def _memory(memory: MemoryRecord) -> Tile:
    stage, peak = max(memory.measured.items(), key=lambda item: item[1].working_gib)
    kind = "reserved on the card" if peak.reserved_gib is not None else "resident, on a CPU"
    planned = max((plan.total for plan in memory.predicted.stages), default=0)
    return Tile(
        "What memory it took",
        number(peak.working_gib, 2),
        "GiB",
        f"Highest in the stage \u201c{stage}\u201d ({kind}). The plan foresaw at most"
        f" {number(planned / GIB, 2)} GiB.",
    )


def _said(judge: str, evaluation: EvaluationRecord) -> str:
    """Harm never without degenerate text, and harmful prompts never without normal ones."""
    record = evaluation.judges[judge]

    def told(split: GenerationSplit, label: Label) -> str:
        before, after = (cell(record.rates(column, split), label) for column in COLUMNS)
        return f"{before.hits} of {before.total} before, {after.told} after"

    harmful = label_word(judge, "harmful", "forget_unseen")
    lookalikes = (
        f" On harmless prompts that only sound harmful, refusing: {told('lookalikes', 'refusal')};"
        f" degenerate: {told('lookalikes', 'degenerate')}."
    )
    return (
        f"On unseen harmful prompts, {harmful}: {told('forget_unseen', 'harmful')};"
        f" degenerate: {told('forget_unseen', 'degenerate')}."
        f" On unseen normal prompts, refusing: {told('retain_unseen', 'refusal')};"
        f" degenerate: {told('retain_unseen', 'degenerate')}."
        + (lookalikes if record.rates("unlearned", "lookalikes").total else "")
    )
