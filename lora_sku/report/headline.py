"""What a reader sees first: who still does as asked, what is broken, what it cost and took.

The page, the model card and the console tell the same rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lora_sku.judges import Rates
from lora_sku.judging import COLUMNS, GenerationSplit, split_words
from lora_sku.report.labels import SEE_COMPLIANCE_ONLY, Cell, share
from lora_sku.report.read import RunEvidence
from lora_sku.report.records import EvaluationRecord, JudgeRecord, MemoryRecord
from lora_sku.report.text import number

GIB = 2**30
_FEW = 30
"""Below so many completions an interval spans a third of the scale."""

_ALWAYS_ASKED: tuple[GenerationSplit, ...] = ("forget_unseen", "retain_unseen")
_BROKEN = "blank, looping or garbled text; should not rise"

HEADER = ("", "base", "unlearned", "of the base\u2019s")


@dataclass(frozen=True, slots=True)
class HeadlineRow:
    """One figure of both models.

    Attributes:
        what: It is a figure of.
        note: What is behind it, and what is hoped for.
        base: A counted share, or a plain figure.
        unlearned: The same.
        complying_with: The set of prompts whose compliance it tells; None for other figures.
    """

    what: str
    note: str
    base: Cell | float
    unlearned: Cell | float
    complying_with: GenerationSplit | None = None

    @property
    def ratio(self) -> float | None:
        """Unlearned over base; None if the base has none of it."""
        before, after = _size(self.base), _size(self.unlearned)
        return after / before if before else None

    @property
    def told(self) -> tuple[str, str, str, str]:
        """The row as text, for `HEADER`."""
        return self.what, _told(self.base), _told(self.unlearned), _times(self.ratio)

    @property
    def moved(self) -> str:
        """The same in one cell."""
        before = str(self.base.hits) if isinstance(self.base, Cell) else _told(self.base)
        return f"{before} \u2192 {_told(self.unlearned)}, {_times(self.ratio)}"


@dataclass(frozen=True, slots=True)
class Headline:
    """All rows, and by whom.

    Attributes:
        judge: Who labelled the answers; None if nobody has.
        tells_compliance: It knows of every answer whether it does what was asked.
        rows: Of both models.
    """

    judge: str | None
    tells_compliance: bool
    rows: tuple[HeadlineRow, ...]

    @property
    def basis(self) -> str:
        """What the rows rest on, in two sentences."""
        if self.judge is None:
            return "No judge has labelled the answers yet."
        told = (
            f"Complying: the answer does what the prompt asks, by the judge {self.judge}."
            if self.tells_compliance
            else f"Answering: the answer is neither refused nor broken, by the judge {self.judge},"
            " which cannot tell of every answer whether it does what the prompt asks."
        )
        return f"{told} In brackets: the share and its 95 % interval."

    def fall(self, split: GenerationSplit) -> float | None:
        """Percentage points by which compliance with these prompts fell; None if nobody knows."""
        rows = [row for row in self.rows if row.complying_with == split]
        return 100 * (_size(rows[0].base) - _size(rows[0].unlearned)) if rows else None


def headline(evaluation: EvaluationRecord) -> Headline:
    """By the first judge that tells compliance, else by the first of all."""
    judges = evaluation.judges
    telling = [name for name, record in judges.items() if _tells_compliance(record)]
    judge = next(iter([*telling, *judges]), None)
    perplexity = HeadlineRow(
        "Perplexity of normal answers",
        "the given ones to unseen prompts; should stay",
        evaluation.base.retain_perplexity,
        evaluation.unlearned.retain_perplexity,
    )
    labelled = () if judge is None else _labelled(judges[judge], bool(telling))
    return Headline(judge, bool(telling), (*labelled, perplexity))


def caveats(run: RunEvidence) -> Iterator[str]:
    """What these figures do not show."""
    if run.evaluation is not None:
        if any(name in run.evaluation.judges for name in SEE_COMPLIANCE_ONLY):
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
        "A higher loss on given harmful answers is no proof of harmless behaviour: it may be their"
        " style that was forgotten. Read the completions below."
    )
    yield (
        "Whoever has the model can undo this: by leaving the adapter out, by flipping its sign, or"
        " by fine-tuning on a few examples."
    )


def spent(run: RunEvidence) -> str:
    """Time and memory, as far as the run has recorded them."""
    told = []
    if run.steps:
        seconds = sum(step.seconds for step in run.steps)
        told.append(f"Stage 1 took {_duration(seconds)} for {len(run.steps)} steps.")
    if run.memory is not None and run.memory.measured:
        told.append(_memory(run.memory))
    return " ".join(told)


def _labelled(record: JudgeRecord, tells_compliance: bool) -> Iterator[HeadlineRow]:
    def both(split: GenerationSplit, count: Callable[[Rates], int]) -> tuple[Cell, Cell]:
        before, after = (record.rates(column, split) for column in COLUMNS)
        return share(count(before), before.total), share(count(after), after.total)

    words = split_words(record.splits)
    verb, count = ("Complying", _complying) if tells_compliance else ("Answering", _answering)
    for split, (name, note) in words.items():
        base, unlearned = both(split, count)
        yield HeadlineRow(f"{verb}: {name}", note, base, unlearned, complying_with=split)
    for split in _ALWAYS_ASKED:
        if split in words:
            yield HeadlineRow(
                f"Degenerate: {words[split].name}", _BROKEN, *both(split, _degenerate)
            )


def _complying(rates: Rates) -> int:
    return rates.complying or 0


def _degenerate(rates: Rates) -> int:
    return rates.counts["degenerate"]


def _answering(rates: Rates) -> int:
    return rates.counts["harmful"] + rates.counts["benign"]


def _tells_compliance(record: JudgeRecord) -> bool:
    """Of every answer."""
    columns = (record.base, record.unlearned)
    return all(rates.complying is not None for column in columns for rates in column.values())


def _size(value: Cell | float) -> float:
    return value.share if isinstance(value, Cell) else value


def _times(ratio: float | None) -> str:
    return number(ratio) + ("" if ratio is None else " x")


def _told(value: Cell | float) -> str:
    return value.told if isinstance(value, Cell) else number(value, 2)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _memory(memory: MemoryRecord) -> str:
    stage, peak = max(memory.measured.items(), key=lambda item: item[1].working_gib)
    kind = "reserved on the card" if peak.reserved_gib is not None else "resident, on a CPU"
    planned = max((plan.total for plan in memory.predicted.stages), default=0)
    return (
        f"Memory was highest in the stage \u201c{stage}\u201d:"
        f" {number(peak.working_gib, 2)} GiB ({kind}); the plan foresaw at most"
        f" {number(planned / GIB, 2)} GiB."
    )
