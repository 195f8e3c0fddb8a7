"""What the sets look like: counts, overlaps, token lengths and one marked example.

No harmful answer is ever shown; the example comes from the retain set.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lora_sku.data.encoding import Encoder
from lora_sku.data.rows import LoadedRows, Row, normalised
from lora_sku.data.sets import DataSets, LongPrompts
from lora_sku.data.splits import Splits

_PERCENTILES = (50, 90, 99)
_SHOWN_SKIPPED = 5


@dataclass(frozen=True)
class TokenCounts:
    """Lengths in tokens before any cut, by nearest rank.

    Attributes:
        p50: Half of the texts are no longer than this.
        p90: 90 % are no longer.
        p99: 99 % are no longer.
        max: The longest.
        truncated: How many texts are cut to the recipe's limit.
    """

    p50: int
    p90: int
    p99: int
    max: int
    truncated: int


@dataclass(frozen=True)
class SideAudit:
    """One set.

    Attributes:
        records: Records read, bad ones included.
        prompts: Distinct prompts.
        pairs: Distinct (prompt, answer) pairs.
        prompts_by_split: train, validation, unseen -> prompts.
        pairs_by_split: train, validation, unseen -> pairs.
        duplicate_pairs: Pairs that came again.
        skipped: "where: problem" of each record left out.
        prompt_tokens: Frame included; None without a tokenizer.
        answer_tokens: EOS included; None without a tokenizer.
    """

    records: int
    prompts: int
    pairs: int
    prompts_by_split: dict[str, int]
    pairs_by_split: dict[str, int]
    duplicate_pairs: int
    skipped: tuple[str, ...]
    prompt_tokens: TokenCounts | None
    answer_tokens: TokenCounts | None


@dataclass(frozen=True)
class DataAudit:
    """All sets.

    Attributes:
        forget: The forget set.
        retain: The retain set.
        shared_prompts: Prompts that stand in both, with different answers.
        example: A retain prompt and answer, each trained token in [[ ]]; None without a tokenizer.
        long_prompts: Prompts left out or cut for their length.
        fingerprint: Of the data, see `DataSets`.
        protect: The protected sets, by name.
        protect_shared_prompts: Prompts of each that stand in the forget set too, with different
            answers.
    """

    forget: SideAudit
    retain: SideAudit
    shared_prompts: int
    example: str | None
    long_prompts: LongPrompts
    fingerprint: str
    protect: dict[str, SideAudit] = field(default_factory=dict)
    protect_shared_prompts: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The same for JSON."""
        return asdict(self)

    def render(self) -> str:
        """Plain text for a person."""
        lines = [*_render_side("forget", self.forget), "", *_render_side("retain", self.retain), ""]
        for name, side in self.protect.items():
            lines += [*_render_side(f"protected, {name}", side)]
            lines += [f"  also in the forget set: {self.protect_shared_prompts[name]} prompts", ""]
        lines.append(f"prompts in both sets: {self.shared_prompts}")
        lines.append(f"fingerprint: {self.fingerprint}")
        long = self.long_prompts
        if self.example is None:
            lines.append("token counts and example: absent, the tokenizer is not on this machine")
        else:
            lines.append(f"long prompts: {long.dropped} left out, {long.truncated} cut")
            lines += ["retain example, trained tokens in [[ ]]:", self.example]
        return "\n".join(lines)


def audit(datasets: DataSets, encoder: Encoder | None) -> DataAudit:
    """Count and measure all sets.

    Args:
        datasets: As `load_data` gave them.
        encoder: None leaves out all that needs the tokenizer.
    """
    forget_prompts = _prompts(datasets.forget_loaded)
    return DataAudit(
        forget=_audit_side(datasets.forget_loaded, datasets.forget, encoder),
        retain=_audit_side(datasets.retain_loaded, datasets.retain, encoder),
        shared_prompts=len(forget_prompts & _prompts(datasets.retain_loaded)),
        example=None if encoder is None else _example(datasets.retain.train[0], encoder),
        long_prompts=datasets.long_prompts,
        fingerprint=datasets.fingerprint,
        protect={
            name: _audit_side(datasets.protect_loaded[name], splits, encoder)
            for name, splits in datasets.protect.items()
        },
        protect_shared_prompts={
            name: len(forget_prompts & _prompts(loaded))
            for name, loaded in datasets.protect_loaded.items()
        },
    )


def _prompts(loaded: LoadedRows) -> set[str]:
    return {normalised(row.prompt) for row in loaded.rows}


def _audit_side(loaded: LoadedRows, splits: Splits, encoder: Encoder | None) -> SideAudit:
    prompt_tokens = answer_tokens = None
    if encoder is not None:
        prompt_tokens = _token_counts(
            [encoder.prompt_length(row.prompt) for row in loaded.rows], encoder.max_prompt_tokens
        )
        answer_tokens = _token_counts(
            [encoder.answer_length(answer) for row in loaded.rows for answer in row.answers],
            encoder.max_answer_tokens,
        )
    named = splits.named()
    return SideAudit(
        records=loaded.records,
        prompts=len(loaded.rows),
        pairs=loaded.pairs,
        prompts_by_split={name: len(rows) for name, rows in named.items()},
        pairs_by_split={
            name: sum(len(row.answers) for row in rows) for name, rows in named.items()
        },
        duplicate_pairs=loaded.duplicate_pairs,
        skipped=loaded.skipped,
        prompt_tokens=prompt_tokens,
        answer_tokens=answer_tokens,
    )


def _token_counts(lengths: Sequence[int], limit: int) -> TokenCounts:
    ordered = sorted(lengths)
    p50, p90, p99 = (ordered[math.ceil(p / 100 * len(ordered)) - 1] for p in _PERCENTILES)
    return TokenCounts(p50, p90, p99, ordered[-1], sum(length > limit for length in ordered))


def _example(row: Row, encoder: Encoder) -> str:
    encoded = encoder.encode(row.prompt, row.answers[0])
    # Each token's text is what it adds to the decoded text: decoded alone it could lose its space.
    text = encoder.decode(encoded.input_ids[: encoded.prompt_length])
    marked = [text]
    for end in range(encoded.prompt_length + 1, len(encoded.input_ids) + 1):
        longer = encoder.decode(encoded.input_ids[:end])
        marked.append(f"[[{longer[len(text) :]}]]")
        text = longer
    return "".join(marked)


def _render_side(name: str, side: SideAudit) -> list[str]:
    lines = [
        f"{name}: {side.records} records -> {side.prompts} prompts, {side.pairs} pairs"
        f" ({side.duplicate_pairs} duplicates dropped, {len(side.skipped)} records skipped)"
    ]
    lines += [
        f"  {split}: {prompts} prompts, {side.pairs_by_split[split]} pairs"
        for split, prompts in side.prompts_by_split.items()
    ]
    for label, counts in (("prompt", side.prompt_tokens), ("answer", side.answer_tokens)):
        if counts is not None:
            lines.append(
                f"  {label} tokens: 50 % <= {counts.p50}, 90 % <= {counts.p90},"
                f" 99 % <= {counts.p99}, max {counts.max}; {counts.truncated} over the limit"
            )
    lines += [f"  skipped {problem}" for problem in side.skipped[:_SHOWN_SKIPPED]]
    if len(side.skipped) > _SHOWN_SKIPPED:
        lines.append(f"  ... and {len(side.skipped) - _SHOWN_SKIPPED} more skipped")
    return lines
