"""Several runs side by side: settings that differ, all headline figures, one trade-off figure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_sku.errors import RunDirectoryError
from lora_sku.judges import Label, Rates
from lora_sku.judging import GenerationSplit, SplitWords, split_words
from lora_sku.report.charts import COLOURS, Frame, Point, Series, legend_key, line_chart
from lora_sku.report.curves import (
    COST_LABEL,
    WIDEST_COST,
    Figure,
    counts_refusals,
    curve_of,
    gain_label,
    place,
)
from lora_sku.report.differences import (
    ABSENT,
    differing_settings,
    differing_surroundings,
    warnings,
)
from lora_sku.report.headline import headline
from lora_sku.report.html import render
from lora_sku.report.labels import cell, label_word
from lora_sku.report.provenance import negation
from lora_sku.report.read import RunEvidence, read_run
from lora_sku.report.records import EvaluationRecord, JudgeRecord, SweepRecord
from lora_sku.report.text import change, number
from lora_sku.storage import write_text

Row = tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """Runs and what is told of them.

    Attributes:
        runs: In the order in which they were named.
        names: Short and different from each other.
        settings: A row for each key of the recipes that differs: key, then each run's value.
        surroundings: The same for device, versions and fingerprints.
        figures: A row for each headline figure.
        warnings: Why a difference of figures may not come from the settings.
    """

    runs: tuple[RunEvidence, ...]
    names: tuple[str, ...]
    settings: tuple[Row, ...]
    surroundings: tuple[Row, ...]
    figures: tuple[Row, ...]
    warnings: tuple[str, ...]

    def tables(self) -> Iterator[tuple[str, list[Row]]]:
        """(title, rows) of each table that has rows."""
        for title, rows in (
            ("Settings that differ", self.settings),
            ("Surroundings that differ", self.surroundings),
            ("Figures", self.figures),
        ):
            if rows:
                yield title, list(rows)


def compare_runs(folders: Sequence[Path | str]) -> Comparison:
    """Read run directories and set them side by side.

    Args:
        folders: Two or more.

    Raises:
        RunDirectoryError: for fewer than two, or for a folder that holds no sound run.
    """
    if len(folders) < 2:
        raise RunDirectoryError(
            "there is nothing to compare it with",
            where=", ".join(map(str, folders)) or None,
            remedy="Name two run directories or more.",
        )
    runs = tuple(read_run(folder) for folder in folders)
    return Comparison(
        runs=runs,
        names=_names(runs),
        settings=tuple((key, *values) for key, values in differing_settings(runs).items()),
        surroundings=tuple((key, *values) for key, values in differing_surroundings(runs).items()),
        figures=tuple(_figures(runs)),
        warnings=tuple(warnings(runs)),
    )


def write_comparison(comparison: Comparison, output: Path) -> None:
    """Write compare.html, one file that needs nothing beside it.

    Raises:
        StorageError: if the file cannot be written.
    """
    values = {"it": comparison, "figures": tuple(_drawn(comparison))}
    write_text(output, render("compare.html.j2", values))


def _names(runs: Sequence[RunEvidence]) -> tuple[str, ...]:
    """The folders' own names, or their paths where two have the same; never twice the same."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [str(run.folder) for run in runs]
    return tuple(
        name if names.index(name) == index else f"{name} ({index + 1})"
        for index, name in enumerate(names)
    )


def _figures(runs: Sequence[RunEvidence]) -> Iterator[Row]:
    def row(title: str, told: Callable[[EvaluationRecord], str]) -> Row:
        return title, *(ABSENT if run.evaluation is None else told(run.evaluation) for run in runs)

    yield "Negation", *(negation(run) for run in runs)
    yield from _headlines(runs)
    yield row("Gain on unseen harmful answers (nats/token)", lambda e: change(e.gain))
    yield row("Gain on trained harmful answers (nats/token)", lambda e: change(e.gain_seen))
    yield row("KL to the base (nats/token)", lambda e: number(e.unlearned.retain_kl))
    yield row("Answers to normal prompts, how like the base's (ROUGE-L)", _to_base)
    yield row("Answers to normal prompts, how like the given ones (ROUGE-L)", _to_reference)
    yield from _tasks(runs)
    yield from _judged(runs)
    yield "Highest measured memory (GiB)", *(_peak(run) for run in runs)


def _headlines(runs: Sequence[RunEvidence]) -> Iterator[Row]:
    """What each run's own page says first."""
    told = [None if run.evaluation is None else headline(run.evaluation) for run in runs]
    yield "Judge of what follows", *((it and it.judge) or ABSENT for it in told)
    found = [{} if it is None else {row.what: row for row in it.rows} for it in told]
    for what in dict.fromkeys(what for of_run in found for what in of_run):
        yield what, *(of_run[what].moved if what in of_run else ABSENT for of_run in found)


def _tasks(runs: Sequence[RunEvidence]) -> Iterator[Row]:
    """Each metric of each task of lm-evaluation-harness that any run has."""
    found = [
        {} if run.evaluation is None else {(it.task, it.metric): it for it in run.evaluation.tasks}
        for run in runs
    ]
    for task, metric in dict.fromkeys(key for of_run in found for key in of_run):
        cells = []
        for of_run in found:
            it = of_run.get((task, metric))
            cells.append(
                ABSENT
                if it is None
                else f"{number(it.values.base)} \u2192 {number(it.values.unlearned)}"
            )
        yield f"lm-eval {task}: {metric}", *cells


def _to_base(evaluation: EvaluationRecord) -> str:
    it = evaluation.likeness
    return ABSENT if it is None else number(it.unlearned_to_base)


def _to_reference(evaluation: EvaluationRecord) -> str:
    it = evaluation.likeness
    if it is None:
        return ABSENT
    return f"{number(it.base_to_reference)} \u2192 {number(it.unlearned_to_reference)}"


def _judged(runs: Sequence[RunEvidence]) -> Iterator[Row]:
    """Each judge's four labels on each set of prompts: harm never stands alone."""
    judges = dict.fromkeys(
        name for run in runs if run.evaluation is not None for name in run.evaluation.judges
    )
    labels: tuple[Label, ...] = ("harmful", "degenerate", "refusal", "benign")
    for judge in judges:
        records = [
            None if run.evaluation is None else run.evaluation.judges.get(judge) for run in runs
        ]
        for split, (name, _) in _words(records).items():
            rates = [
                None
                if record is None
                else (record.rates("base", split), record.rates("unlearned", split))
                for record in records
            ]
            for label in labels:
                cells = [ABSENT if pair is None else _moved(*pair, label) for pair in rates]
                yield f"{judge}: {label_word(judge, label, split)}, {name}", *cells


def _words(records: Sequence[JudgeRecord | None]) -> dict[GenerationSplit, SplitWords]:
    """Of all sets of prompts that any run asked."""
    return split_words({split for record in records if record for split in record.splits})


def _moved(before: Rates, after: Rates, label: Label) -> str:
    told = cell(after, label).told
    return f"{before.counts[label]} \u2192 {told}" if after.total else told


def _peak(run: RunEvidence) -> str:
    if run.memory is None or not run.memory.measured:
        return ABSENT
    return number(max(peak.working_gib for peak in run.memory.measured.values()), 2)


def _drawn(comparison: Comparison) -> Iterator[Figure]:
    numbered = [
        (index % COLOURS, name, run)
        for index, (name, run) in enumerate(zip(comparison.names, comparison.runs, strict=True))
    ]
    series = [
        Series(name, (at,), colour, line=False, dots=True)
        for colour, name, run in numbered
        if (at := _falls(run)) is not None
    ]
    if series:
        yield _results(series)
    swept = [(colour, name, run.sweep) for colour, name, run in numbered if run.sweep is not None]
    if swept:
        yield _tradeoffs(swept)


def _falls(run: RunEvidence) -> Point | None:
    """Points by which compliance fell, with normal and with harmful prompts."""
    if run.evaluation is None:
        return None
    told = headline(run.evaluation)
    normal, harmful = told.fall("retain_unseen"), told.fall("forget_unseen")
    return None if normal is None or harmful is None else (normal, harmful)


def _results(series: Sequence[Series]) -> Figure:
    """A point a run, on the prompts that nobody has seen."""
    base = Series("base, nothing done", ((0.0, 0.0),), COLOURS - 1, line=False, dots=True)
    told = "; ".join(
        f"{each.name}: {number(harmful, 1)} points on harmful prompts,"
        f" {number(normal, 1)} on normal ones"
        for each in series
        for normal, harmful in each.points
    )
    frame = Frame(
        "How far compliance fell, on unseen prompts",
        f"{told}.",
        "with normal prompts, points",
        "with harmful prompts, points",
    )
    return Figure(
        frame.title,
        "A point a run: up is more forgetting, right is more damage.",
        line_chart((*series, base), frame),
        tuple((legend_key(each.colour), each.name) for each in (*series, base)),
    )


def _tradeoffs(swept: Sequence[tuple[int, str, SweepRecord]]) -> Figure:
    """Every run's curves over each other, on the validation splits."""
    refusals = any(counts_refusals(sweep) for _, _, sweep in swept)
    series = [
        Series(name, curve_of(sweep, refusals=refusals), colour, dots=True)
        for colour, name, sweep in swept
    ]
    budgets = {sweep.budget.perplexity_ratio for _, _, sweep in swept}
    limit = 1 + WIDEST_COST * (max(budgets) - 1)
    choices = [(name, place(sweep.choice, sweep, refusals=refusals)) for _, name, sweep in swept]
    told = "; ".join(
        f"{name} chose {number(at[1])} at {number(at[0])} times" for name, at in choices if at
    )
    frame = Frame(
        "Trade-offs on the validation splits",
        f"{told}.",
        COST_LABEL,
        gain_label(refusals=refusals),
        budget=budgets.pop() if len(budgets) == 1 else None,
        marks=tuple(at for _, at in choices if at is not None),
        x_limit=limit,
    )
    return Figure(
        frame.title,
        "A line for each run, a point for each strength; rings are the choices.",
        line_chart(series, frame),
        tuple((legend_key(each.colour), each.name) for each in series),
    )
