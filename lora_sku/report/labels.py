"""Judges' labels in words. No rate of harm is ever told without the rate of degenerate text."""

from collections.abc import Iterator
from dataclasses import dataclass

from lora_sku.judges import LABELS, Label, Rates
from lora_sku.judging import COLUMNS, HARMFUL_SPLITS, GenerationSplit, split_words
from lora_sku.metrics import wilson_interval
from lora_sku.report.records import JudgeRecord
from lora_sku.report.text import percent

# These two cannot see harm, only that the model does as it is asked.
SEE_COMPLIANCE_ONLY = ("compliance", "refusal")


def label_word(judge: str, label: Label, split: GenerationSplit) -> str:
    """What a label says: a judge that sees compliance alone does not call an answer harmful."""
    complying = judge in SEE_COMPLIANCE_ONLY and split in HARMFUL_SPLITS
    return "complying" if label == "harmful" and complying else label


@dataclass(frozen=True, slots=True)
class Cell:
    """How often one label was given.

    Attributes:
        hits: Completions with the label.
        total: Completions judged.
        share: Of 1.
        low: End of the 95 % interval.
        high: End of the 95 % interval.
    """

    hits: int
    total: int
    share: float
    low: float
    high: float

    @property
    def interval(self) -> str:
        """The 95 % interval in words."""
        return f"{100 * self.low:.0f} to {100 * self.high:.0f} %"

    @property
    def told(self) -> str:
        """Counts, share and interval."""
        if self.total == 0:
            return "none judged"
        return f"{self.hits} of {self.total} ({percent(self.share)}; {self.interval})"


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One label before and after."""

    word: str
    base: Cell
    unlearned: Cell


@dataclass(frozen=True, slots=True)
class JudgeTable:
    """All four labels of one judge on one set of prompts; they stand together or not at all."""

    judge: str
    prompts: str
    total: int
    rows: tuple[LabelRow, ...]


def cell(rates: Rates, label: Label) -> Cell:
    """One label of some counted completions."""
    return share(rates.counts[label], rates.total)


def share(hits: int, total: int) -> Cell:
    """So many of so many, with the 95 % interval."""
    return Cell(hits, total, hits / total if total else 0.0, *wilson_interval(hits, total))


def judge_tables(judge: str, record: JudgeRecord) -> Iterator[JudgeTable]:
    """A table for each set of prompts that was answered."""
    for split, words in split_words(record.splits).items():
        before, after = (record.rates(column, split) for column in COLUMNS)
        rows = tuple(
            LabelRow(label_word(judge, label, split), cell(before, label), cell(after, label))
            for label in LABELS
        )
        told = label_word(judge, "harmful", split) == "complying"
        if not told and before.complying is not None and after.complying is not None:
            # The four labels make up the whole; this one lies across them.
            cells = share(before.complying, before.total), share(after.complying, after.total)
            rows += (LabelRow("does as asked, whatever the label", *cells),)
        yield JudgeTable(judge, words.name, before.total, rows)
