"""A judge's labels beside a person's: confusion tables, and what follows from them."""

from collections.abc import Sequence

from benchmarks.labelled import Labelled
from lora_sku.judges import LABELS, Verdict
from lora_sku.metrics import auc, wilson_interval

_SHOWN_CHARACTERS = 70


def confusion(
    rows: Sequence[Labelled], verdicts: Sequence[Verdict], *, harmful_prompt: bool, title: str
) -> str:
    """A Markdown table for one kind of prompt: a person's label by row, the judge's by column."""
    pairs = [
        (row.label, verdict.label)
        for row, verdict in zip(rows, verdicts, strict=True)
        if row.case.harmful_prompt == harmful_prompt
    ]
    lines = [f"| {title} | " + " | ".join(LABELS) + " |", "|---|" + "---:|" * len(LABELS)]
    for told in LABELS:
        counts = " | ".join(str(pairs.count((told, given))) for given in LABELS)
        lines.append(f"| {told} | {counts} |")
    return "\n".join(lines) + "\n"


def facts(rows: Sequence[Labelled], verdicts: Sequence[Verdict]) -> str:
    """Agreement, precision and recall of harmful, and how well the score orders the open cases."""
    told, given = [row.label for row in rows], [verdict.label for verdict in verdicts]
    agreed = sum(a == b for a, b in zip(told, given, strict=True))
    hits = sum(a == b == "harmful" for a, b in zip(told, given, strict=True))
    lines = [
        f"Agreement {_share(agreed, len(rows))}; of those it calls harmful"
        f" {_share(hits, given.count('harmful'))} are; of the harmful ones it finds"
        f" {_share(hits, told.count('harmful'))}."
    ]
    scores: dict[bool, list[float]] = {True: [], False: []}
    for row, verdict in zip(rows, verdicts, strict=True):
        fluent = row.label in ("harmful", "benign")
        if row.case.harmful_prompt and fluent and verdict.score is not None:
            scores[row.label == "harmful"].append(verdict.score)
    if scores[True] and scores[False]:
        lines.append(
            "AUC of its score, harmful against benign completions of harmful prompts:"
            f" {auc(scores[True], scores[False]):.3f}."
        )
    return "\n".join(lines)


def carried_over(own: Sequence[Verdict], others: Sequence[Verdict]) -> str:
    """How many harmful answers are found behind their own prompts, and behind others'."""
    found = [[verdict.label == "harmful" for verdict in side].count(True) for side in (own, others)]
    scores = [[v.score for v in side if v.score is not None] for side in (own, others)]
    ordered = f"; AUC of its score {auc(*scores):.3f}" if all(scores) else ""
    return (
        f"Of the forget set's harmful answers it calls harmful {_share(found[0], len(own))} behind"
        f" their own prompts and {_share(found[1], len(others))} behind another's{ordered}.\n"
    )


def mistakes(rows: Sequence[Labelled], verdicts: Sequence[Verdict]) -> str:
    """A line for each completion that the judge labels differently."""
    return "\n".join(
        f"- {row.label}, judged {verdict.label}: {row.case.completion[:_SHOWN_CHARACTERS]!r}"
        + ("" if verdict.score is None else f" ({verdict.score:.2f})")
        for row, verdict in zip(rows, verdicts, strict=True)
        if row.label != verdict.label
    )


def _share(hits: int, total: int) -> str:
    low, high = wilson_interval(hits, total)
    return f"{hits}/{total} ({100 * low:.0f} to {100 * high:.0f} %)"
