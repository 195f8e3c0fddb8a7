"""Which cells the memory benchmark measures, and the report of what they found."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cell import Cell, above_weights_gib
from benchmarks.machine import describe_machine
from benchmarks.plots import bars
from benchmarks.report import Report, Table, Target, targets_table
from benchmarks.workload import Lengths

OURS = "ours-nf4"
SMOKE = "tiny"  # all of its memory is libraries
# Cell -> how its dtype is told.
PUBLISHED = {
    "published-float32": "float32 as the released code loads it",
    "published": "our compute dtype",
}

# Shape, name of the cell, what `measure` returned.
Row = tuple[str, str, dict[str, Any]]

_METHODS: dict[str, dict[str, Any]] = {
    OURS: {"method": "ours", "quantization": "nf4"},
    "ours-int8": {"method": "ours", "quantization": "int8"},
    "ours-none": {"method": "ours", "quantization": "none"},
    "textbook-nf4": {"method": "textbook", "quantization": "nf4"},
    "full": {"method": "full", "quantization": "none"},
    "published": {"method": "published", "quantization": "none"},
    "published-float32": {
        "method": "published",
        "quantization": "none",
        "compute_dtype": "float32",
    },
}
METHOD_NAMES = tuple(_METHODS)
_MEANINGS = (
    "ours-*: lora-sku on a base in NF4, int8 or unquantized.",
    "textbook-nf4: QLoRA with a row for each answer, whole logits, one joint loss; checkpointing as"
    " ours.",
    "full: full fine-tuning with all that saves memory: no copy of the base (hidden states of"
    " theta_o are kept), checkpointing, chunked losses, AdamW states in the weights' dtype.",
    "published: full fine-tuning as published: a second copy of the base, torch's AdamW, no"
    " checkpointing, negation with five state dicts; in our compute dtype, and (-float32) in the"
    " dtype that the released code loads.",
)


def plan(
    model: str, lengths: Lengths, steps: int, *, ours_only: bool
) -> Iterator[tuple[str, Callable[[float | None], Cell]]]:
    """The cells of a model: name, and what makes the cell once the free memory is known."""
    for name, keys in _METHODS.items():
        if ours_only and name != OURS:
            continue

        def cell_of(limit_gib: float | None, keys: dict[str, Any] = keys) -> Cell:
            return Cell(model=model, lengths=lengths, steps=steps, limit_gib=limit_gib, **keys)

        yield name, cell_of


def make_report(rows: Sequence[Row], empty_gib: float, lengths: Lengths, command: str) -> Report:
    """Tables and targets from the cells' figures."""
    return Report(
        name="memory",
        title="Peak memory of SKU: lora-sku beside other ways",
        command=command,
        machine=describe_machine(),
        rulers=(*_rulers(empty_gib, lengths), *_MEANINGS),
        tables=(
            targets_table(targets(rows, empty_gib)),
            _peaks_table(rows, empty_gib),
            _kinds_table(rows),
        ),
        raw={
            "empty_process_gib": empty_gib,
            "cells": [[shape, name, _nameless(result)] for shape, name, result in rows],
        },
    )


def _nameless(result: dict[str, Any]) -> dict[str, Any]:
    """The same without the folder of this machine that a random model lay in."""
    cell = result["cell"]
    is_local = Path(cell["model"]).is_absolute()
    return result | {"cell": cell | {"model": Path(cell["model"]).name}} if is_local else result


def targets(rows: Sequence[Row], empty_gib: float) -> list[Target]:
    """The promises that this benchmark can check."""
    found = {(shape, name): result for shape, name, result in rows if "failed" not in result}
    largest = found.get(("7b", OURS))
    load = train = None
    if largest is not None:
        load, train = (
            largest["phases"][name]["peak_gib"] - empty_gib for name in ("load", "train")
        )
    above = "GiB above an empty process"
    return [
        Target("Llama-2-7B's shape, NF4: peak of training", 6.0, train, False, above),
        Target(
            "the same: peak of loading beyond that of training",
            1.0,
            None if load is None or train is None else load - train,
            False,
            "GiB",
        ),
        *[_published_target(found, empty_gib, name, dtype) for name, dtype in PUBLISHED.items()],
    ]


def _published_target(
    found: Mapping[tuple[str, str], dict[str, Any]], empty_gib: float, name: str, dtype: str
) -> Target:
    """How many times our peak full fine-tuning takes, on the largest shape where both fitted."""
    promise = f"full fine-tuning as published, in {dtype}, over ours"
    ours = {
        shape: _peak(found[shape, OURS], empty_gib)
        for shape, other in found
        if other == name and (shape, OURS) in found and shape != SMOKE
    }
    if not ours:
        return Target(promise, 15.0, None, True, "x")
    shape = max(ours, key=ours.__getitem__)
    ratio = _peak(found[shape, name], empty_gib) / ours[shape]
    return Target(f"{promise} ({shape})", 15.0, ratio, True, "x")


def plot(path: Path, rows: Sequence[Row], empty_gib: float) -> None:
    """Peaks of all stages, cell by cell."""
    bars(
        path,
        title="Peak resident or reserved memory, all stages, above an empty process",
        unit="GiB",
        figures=[
            (f"{name}, {shape}", _peak(result, empty_gib))
            for shape, name, result in rows
            if "failed" not in result
        ],
        ours="ours",
    )


def _peak(result: dict[str, Any], empty_gib: float) -> float:
    """Of the highest stage, above an empty process."""
    return float(max(phase["peak_gib"] for phase in result["phases"].values()) - empty_gib)


def _peaks_table(rows: Sequence[Row], empty_gib: float) -> Table:
    ours = {s: _peak(r, empty_gib) for s, n, r in rows if n == OURS and "failed" not in r}
    body = []
    for shape, name, result in rows:
        if "failed" in result:
            body.append((f"{shape} {name}", "failed, see the JSON", *[""] * 8))
            continue
        phases = result["phases"]
        weights, peak = phases["load"]["after_gib"], _peak(result, empty_gib)
        body.append(
            (
                f"{shape} {name}",
                result["dtype"],
                f"{weights - empty_gib:.2f}",
                *[f"{phases[stage]['peak_gib'] - empty_gib:.2f}" for stage in phases],
                _gib(result["live_tensors_gib"]),
                f"{above_weights_gib(result):.2f}",
                f"{peak:.2f}",
                f"{peak / ours[shape]:.1f} x" if shape in ours else "",
            )
        )
    columns = (
        *("", "computes in", "after loading", "peak loading", "peak training", "peak negating"),
        *("live tensors in training", "training above the weights"),
        *("highest", "against ours-nf4"),
    )
    return Table(
        "Peaks",
        columns,
        body,
        "GiB above an empty process; live tensors by PyTorch's allocator, from a run of their own;"
        " above the weights, own memory alone counts on a CPU.",
    )


def _kinds_table(rows: Sequence[Row]) -> Table:
    keys = ("peak_anonymous_gib", "peak_file_gib", "after_anonymous_gib", "after_file_gib")
    body = [
        (
            f"{shape} {name}",
            stage,
            *[_gib(figures[key]) for key in keys],
            f"{figures['seconds']:.1f}",
        )
        for shape, name, result in rows
        if "failed" not in result
        for stage, figures in result["phases"].items()
    ]
    note = (
        "Resident GiB of the whole process: its own (RssAnon), which it must have, and pages of"
        " mapped files (RssFile), which the kernel can take back."
    )
    columns = ("", "stage", "own, peak", "files, peak", "own, after", "files, after", "seconds")
    return Table("Own memory and mapped files", columns, body, note)


def _gib(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _rulers(empty_gib: float, lengths: Lengths) -> tuple[str, ...]:
    return (
        "Every cell is a process of its own. Ruler: lora_sku.memory.PeakMeter. On a CPU that is the"
        " kernel's high-water mark of resident memory, reset at each stage; on CUDA, the bytes that"
        " PyTorch's allocator reserved.",
        f"An empty process (Python, torch, transformers' Llama imported) holds {empty_gib:.3f} GiB;"
        " whatever else a cell imports, PEFT and bitsandbytes among it, counts as the cell's.",
        "Own memory and mapped files are sampled every 5 ms.",
        f"A step: {lengths.prompts} forget prompt(s) of {lengths.prompt_tokens} tokens with"
        f" 1 + {lengths.responses} answers of {lengths.answer_tokens}, and as many normal prompts"
        f" with one answer; {lengths.shared_tokens:,} tokens in the forget pass if a prompt is"
        f" shared, {lengths.separate_tokens:,} in rows of their own. Random token ids.",
        "LoRA: r = 16 on all linear layers, fp32.",
    )
