"""The report of the speed benchmark."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.cell import above_weights_gib
from benchmarks.clock import PARTS
from benchmarks.machine import describe_machine
from benchmarks.pairs import OURS, TEXTBOOK, Agreement, Timing
from benchmarks.plots import bars
from benchmarks.report import Report, Table, Target, targets_table
from benchmarks.speed_runs import Headline
from benchmarks.workload import Lengths
from lora_sku.recipe import Recipe


@dataclass(frozen=True)
class Findings:
    """All that one run of the benchmark measured.

    Attributes:
        recipe: As it ran.
        name: Of the recipe.
        changed: It was given with overrides other than k.
        headline: On its data.
        equal: Agreement in fp32.
        points: The grid; may be empty.
        peaks: Of memory, by method; None if not asked for.
    """

    recipe: Recipe
    name: str
    changed: bool
    headline: Headline
    equal: Agreement
    points: Mapping[Lengths, Sequence[Timing]]
    peaks: Mapping[str, Any] | None

    @property
    def place(self) -> str:
        """Where the headline was measured."""
        changed = " changed as in the command" if self.changed else ""
        k = self.recipe.losses.random_disassociation.responses
        return f"{self.name}{changed}, k = {k}"


def make_report(findings: Findings, command: str) -> Report:
    """Tables and targets."""
    tables = [_targets(findings), _headline_table(findings), _split_table(findings.headline)]
    if findings.peaks is not None:
        tables.append(_peaks_table(findings.peaks))
    tables.append(_agreement_table(findings))
    if findings.points:
        tables.append(_grid_table(findings.points))
    headline = findings.headline
    return Report(
        name="speed",
        title="Speed of an optimizer step: lora-sku beside textbook QLoRA",
        command=command,
        machine=describe_machine(),
        rulers=(
            "Each method has a process of its own, so that neither finds the other's gaps on the C"
            " heap; they take turns, each step on the same pairs, which of them goes first changing"
            " from step to step. Speed-up: the median over the steps of the textbook's seconds over"
            " ours. Collection of garbage is not timed.",
            "Same base, adapter, first weights, pairs, optimizer and learning rate, no schedule.",
            _settings(findings.recipe),
            "Losses: the paper's three with its weights, L_PD on theta_o + tau.",
            "textbook: a row for each answer with its own copy of the prompt, attention mask, whole"
            " logits, theta_o by disable_adapter, one joint backward pass.",
            "Supervised tokens are the answers' tokens of all three terms.",
        ),
        tables=tables,
        raw={
            "headline": asdict(headline),
            "equal": asdict(findings.equal),
            "grid": [
                {"lengths": asdict(lengths), "timings": [asdict(t) for t in timings]}
                for lengths, timings in findings.points.items()
            ],
            "peaks": findings.peaks,
        },
    )


def plot(path: Path, findings: Findings) -> None:
    """Speed-up on the recipe's data and at each point of the grid."""
    figures = [(findings.place, speed_up(findings.headline.timings))]
    figures += [(_name(lengths), speed_up(t)) for lengths, t in findings.points.items()]
    bars(
        path,
        title="Speed-up over textbook QLoRA",
        unit="times as many optimizer steps a second",
        figures=figures,
        ours=findings.name,
    )


def speed_up(timings: Iterable[Timing]) -> float:
    """Median over the steps of the textbook's seconds over ours."""
    return median(_ratios(timings))


def _ratios(timings: Iterable[Timing]) -> list[float]:
    seconds = {(timing.step, timing.method): timing.seconds for timing in timings}
    return [seconds[s, TEXTBOOK] / own for (s, method), own in seconds.items() if method == OURS]


def _of(timings: Iterable[Timing], method: str) -> list[Timing]:
    return [timing for timing in timings if timing.method == method]


def _seconds(timings: Iterable[Timing], method: str) -> float:
    return median(timing.seconds for timing in _of(timings, method))


def _targets(findings: Findings) -> Table:
    above = None
    if findings.peaks is not None:
        ours, textbook = (above_weights_gib(findings.peaks[name]) for name in (OURS, TEXTBOOK))
        above = ours / textbook
    place = findings.place
    return targets_table(
        [
            Target(f"speed-up, {place}", 1.8, speed_up(findings.headline.timings), True, "x"),
            Target(f"peak above the weights, ours over textbook, {place}", 0.5, above, False, "x"),
        ]
    )


def _settings(recipe: Recipe) -> str:
    base, adapter, training = recipe.base_model, recipe.adapter, recipe.training
    checkpointing = "with" if training.gradient_checkpointing else "without"
    layers = "all" if adapter.layers_to_transform is None else len(adapter.layers_to_transform)
    return (
        f"Model: {base.path} in {base.quantization}; LoRA r = {adapter.r} on"
        f" {adapter.target_modules} of {layers} layers; {training.per_device_train_batch_size}"
        " forget prompts a step, each with"
        f" {recipe.losses.preservation_divergence.prompts} normal prompts; {checkpointing}"
        " gradient checkpointing, both methods."
    )


def _headline_table(findings: Findings) -> Table:
    timings = findings.headline.timings
    body = []
    for name in (OURS, TEXTBOOK):
        own = _of(timings, name)
        total = sum(timing.seconds for timing in own)
        tokens = sum(timing.losses.answer_tokens for timing in own)
        body.append(
            (
                name,
                f"{_seconds(timings, name):.3f}",
                f"{len(own) / total:.3f}",
                f"{tokens / total:.1f}",
                str(len(own)),
            )
        )
    low, _, high = quantiles(_ratios(timings), n=4) if len(_ratios(timings)) > 1 else [0.0] * 3
    columns = ("", "median seconds a step", "steps/s", "supervised tokens/s", "steps")
    note = (
        f"Computed in {findings.headline.dtype}. Speed-up {speed_up(timings):.2f} x; half of the"
        f" steps lie between {low:.2f} x and {high:.2f} x."
    )
    return Table(f"The data of {findings.place}", columns, body, note)


def _split_table(headline: Headline) -> Table:
    rows: dict[str, list[float]] = {}
    for part in PARTS:
        rows[part] = [
            median(t.parts[part] for t in _of(headline.timings, m)) for m in (OURS, TEXTBOOK)
        ]
    rows["the rest"] = [
        median(t.seconds - sum(t.parts.values()) for t in _of(headline.timings, m))
        for m in (OURS, TEXTBOOK)
    ]
    rows["whole step"] = [_seconds(headline.timings, m) for m in (OURS, TEXTBOOK)]
    rows["forget part alone"] = [_seconds(headline.forget_only, m) for m in (OURS, TEXTBOOK)]
    note = (
        "Median seconds. forward: the decoder's passes under training; reference: its passes as"
        " theta_o; the rest: tokenizing, output projection and losses (ours form their gradient"
        " towards the hidden states there already). In the last row preservation weighs 0; what it"
        " leaves of a step is the part of normal prompts."
    )
    body = [(name, *[f"{value:.3f}" for value in values]) for name, values in rows.items()]
    return Table("Where a step's time goes", ("", OURS, TEXTBOOK), body, note)


def _peaks_table(peaks: Mapping[str, Any]) -> Table:
    empty = peaks["empty_process_gib"]
    body = []
    for name in (OURS, TEXTBOOK):
        phases = peaks[name]["phases"]
        weights, peak = phases["load"]["after_gib"], phases["train"]["peak_gib"]
        body.append(
            (
                name,
                f"{weights - empty:.2f}",
                f"{peak - empty:.2f}",
                f"{above_weights_gib(peaks[name]):.2f}",
            )
        )
    columns = ("", "after loading", "peak of training", "above the weights")
    note = (
        "GiB above an empty process, which holds Python, torch and transformers' Llama. Above the"
        " weights, own memory alone counts on a CPU: pages of the base's files come and go."
    )
    return Table("Memory on the same data, a process each", columns, body, note)


def _agreement_table(findings: Findings) -> Table:
    body = [
        (
            dtype,
            str(found.steps),
            f"{found.largest_difference:.2e}",
            f"{found.largest_change:.2e}",
            f"{found.relative_difference:.2e}",
            f"{found.largest_loss_difference:.2e}",
        )
        for dtype, found in (
            ("float32", findings.equal),
            (findings.headline.dtype, findings.headline.agreement),
        )
    ]
    columns = (
        *("computed in", "steps", "largest difference", "largest change since the start"),
        *("norm of difference / norm of change", "largest relative difference of a loss"),
    )
    note = (
        "The two adapters after the same steps. AdamW divides each gradient by its own size, so it"
        " blows rounding up where a gradient is next to nothing."
    )
    return Table("Equal results", columns, body, note)


def _grid_table(points: Mapping[Lengths, Sequence[Timing]]) -> Table:
    body = [
        (
            _name(lengths),
            f"{_seconds(timings, OURS):.3f}",
            f"{_seconds(timings, TEXTBOOK):.3f}",
            f"{speed_up(timings):.2f} x",
            f"{lengths.separate_tokens / lengths.shared_tokens:.2f} x",
        )
        for lengths, timings in points.items()
    ]
    note = (
        "Random token ids, one length varied at a time. The last column is the ratio of the forget"
        " pass's tokens when each answer repeats its prompt to those when it does not."
    )
    columns = ("", "ours, seconds a step", "textbook, seconds", "speed-up", "tokens ratio")
    return Table("Over lengths, k and batch", columns, body, note)


def _name(lengths: Lengths) -> str:
    return (
        f"prompt {lengths.prompt_tokens}, answer {lengths.answer_tokens}, k = {lengths.responses},"
        f" batch {lengths.prompts}"
    )
