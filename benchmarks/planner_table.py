"""Planned peaks of measured cells, of published runs and of large models, and their report."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from benchmarks.comparison import Comparison
from benchmarks.machine import describe_machine
from benchmarks.planned_methods import Work, full, ours, published, textbook
from benchmarks.plots import bars
from benchmarks.report import Report, Table, Target, targets_table
from benchmarks.shapes import SHAPES, LlamaShape
from lora_sku.architectures import find_config
from lora_sku.errors import SourceError
from lora_sku.memory import GIB
from lora_sku.planning.layers import Tokens
from lora_sku.planning.passes import Pass
from lora_sku.planning.plan import Setup, StagePlan, plan_training
from lora_sku.planning.recipe_plan import Lengths
from lora_sku.planning.shapes import ModelShape, model_shape
from lora_sku.recipe import BaseModelSection, Quantization

RANK = 16  # of the memory benchmark's adapters, on all linear layers
_7B, _8B, _13B = (
    "meta-llama/Llama-2-7b-hf",
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-2-13b-hf",
)
_70B = LlamaShape(8192, 80, 64, 8, 28672, 32000)  # Llama-2-70B
# 64 + 6 x 160 tokens, the memory benchmark's own.
_WORK = Work(1, 5, Lengths(64, 160))


def measured_rows(file: Path) -> Iterator[Comparison]:
    """Stage 1 of every cell of one memory report that came to its end.

    Raises:
        SourceError: if the file holds no such report.
    """
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        cells = raw["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(
            "this holds no figures of a memory report",
            where=str(file),
            remedy="Name a .json that python -m benchmarks.memory wrote.",
        ) from error
    for shape, name, result in cells:
        if "failed" not in result:
            peak_gib = result["phases"]["train"]["peak_gib"] - raw["empty_process_gib"]
            comparison = _compare(f"{shape} {name}", _plan_cell(shape, result), peak_gib)
            yield replace(comparison, live=result["live_tensors_gib"])


def _plan_cell(shape: str, result: Mapping[str, Any]) -> StagePlan:
    cell = result["cell"]
    if result["device"] != "cpu":
        raise SourceError(
            f"{shape} was measured on {result['device']}; only cells of a CPU are planned here",
            where="--measured",
            remedy="Name the report of a CPU.",
        )
    dtype = getattr(torch, result["dtype"])
    setup = Setup("cpu", cell["quantization"], dtype, RANK, optimizer="adamw_torch")
    source = cell["model"] if shape not in SHAPES else SHAPES[shape]
    model = _shape(source, dtype, cell["quantization"])
    given = cell["lengths"]
    lengths = Lengths(given["prompt_tokens"], given["answer_tokens"])
    work = Work(given["prompts"], given["responses"], lengths)
    if cell["method"] == "published":
        return published(model, setup, work)[0]
    return {"ours": ours, "textbook": textbook, "full": full}[cell["method"]](model, setup, work)


def published_rows() -> list[Comparison]:
    """Others' QLoRA on GPUs, planned with the same constants and their own settings.

    torchtune's memory table for Llama-3.1-8B QLoRA (2 x 2048 tokens, checkpointing, chunked
    cross-entropy, r = 8 on all linear layers); LitGPT's table for Llama 2 with bnb.nf4-dq (1 x 1304
    tokens, no checkpointing, r = 8 on q and v, dropout 0.05, a bitsandbytes that kept the inputs).
    Dropout and bitsandbytes' age are from memory.
    """

    def setup(**keys: Any) -> Setup:
        common = {"rank": 8, "optimizer": "adamw_torch", "branch": "peft"}
        return Setup("cuda", "nf4", adapter_dtype=torch.bfloat16, **{**_BF16, **common, **keys})

    litgpt = setup(
        targets=("q_proj", "v_proj"), checkpointing=False, dropout=0.05, keeps_inputs=True
    )
    rows = (
        ("torchtune, Llama-3.1-8B QLoRA, 2 x 2048", _8B, setup(), Tokens(2, 2048), 7.4),
        ("LitGPT, Llama-2-7B, 1 x 1304", _7B, litgpt, Tokens(1, 1304), 13.84e9 / GIB),
        ("LitGPT, Llama-2-13B, 1 x 1304", _13B, litgpt, Tokens(1, 1304), 22.55e9 / GIB),
    )
    return [
        _compare(
            name,
            plan_training(
                _shape(path, torch.bfloat16, "nf4"),
                chosen,
                [Pass("fine-tuning", load, (load.count,), "nll")],
            ),
            known,
        )
        for name, path, chosen, load, known in rows
    ]


_BF16: dict[str, Any] = {"dtype": torch.bfloat16}


def planned_table() -> tuple[list[tuple[str, ...]], dict[str, dict[str, StagePlan]]]:
    """Every method on models up to 70B, on CUDA: the table's rows, and the plans behind them."""
    plans: dict[str, dict[str, StagePlan]] = {}
    for name, source in (("7B", _7B), ("8B", _8B), ("13B", _13B), ("70B", _70B)):
        quantized = Setup("cuda", "nf4", torch.bfloat16, RANK)
        shape = _shape(source, torch.bfloat16, "nf4")
        # Full fine-tuning knows no quantization; what is loaded in float32 is computed in it.
        wide = _shape(source, torch.float32, "none")
        whole = Setup("cuda", "none", torch.bfloat16, RANK)
        training, negation = published(shape, whole, _WORK)
        wide_training, wide_negation = published(
            wide, Setup("cuda", "none", torch.float32, RANK), _WORK
        )
        plans[name] = {
            "lora-sku": ours(shape, quantized, _WORK),
            "textbook": textbook(shape, quantized, _WORK),
            "full": full(shape, whole, _WORK),
            "published bf16": _larger(training, negation),
            "published fp32": _larger(wide_training, wide_negation),
        }
    rows = [
        (
            name,
            f"{methods['lora-sku'].tensors / GIB:.2f}",
            *(f"{stage.total / GIB:.1f}" for stage in methods.values()),
        )
        for name, methods in plans.items()
    ]
    return rows, plans


def make_report(
    measured: Sequence[Comparison], others: Sequence[Comparison], command: str
) -> Report:
    """Tables and targets."""
    rows, plans = planned_table()
    seven, thirteen = (plans[name] for name in ("7B", "13B"))
    columns = ("", "planned", "known", "error")
    cell_columns = (
        *("", "tensors, planned", "tensors, measured", "error"),
        *("resident, planned", "resident, measured", "error"),
    )
    return Report(
        name="planner",
        title="Planned memory beside measured and published",
        command=command,
        machine=describe_machine(),
        rulers=(
            "Tensors, measured: the peak of live tensors' bytes in stage 1 by PyTorch's own CPU"
            " allocator, from benchmarks.memory. It is what the planner counts, and the same on any"
            " machine with these kernels.",
            "Resident: peak of the process in stage 1 over an empty one with torch and"
            " transformers. Beside the tensors it holds PEFT and bitsandbytes, what oneDNN keeps,"
            " and the allocator's gaps; for the textbook's and the full methods also pages of the"
            " base's files, which they map and which are not planned.",
            "Published: GiB of one GPU, by PyTorch's allocator.",
            "Two constants for CPUs (what oneDNN and malloc keep) were chosen on the demo's runs"
            " of one such machine; those for CUDA are from documentation.",
            "Planned for models: 1 prompt of 64 tokens with 1 + 5 answers of 160 (1,024 tokens if"
            " the prompt is shared), r = 16 on all linear layers, 8-bit Adam, checkpointing; on"
            " CUDA, context and slack included but for the first column.",
        ),
        tables=(
            targets_table(_targets(measured, others, seven, thirteen)),
            Table(
                "Measured on this CPU, stage 1, GiB",
                cell_columns,
                [row.row_with_tensors() for row in measured],
            ),
            Table("Published for GPUs, GiB", columns, [row.row() for row in others]),
            Table(
                "Planned for one GPU, GiB",
                ("", "lora-sku, tensors", *plans["7B"]),
                rows,
                note="The two last columns take the larger of training and negation.",
            ),
        ),
        raw={
            "measured": [asdict(row) for row in measured],
            "published": [asdict(row) for row in others],
            "planned": {
                size: {method: stage.as_dict() for method, stage in methods.items()}
                for size, methods in plans.items()
            },
        },
    )


def plot(path: Path, rows: Sequence[Comparison]) -> None:
    """Planned and measured, one above the other."""
    figures = [
        (f"{kind} {row.name}", value)
        for row in rows
        for kind, value in (("planned", row.tensors), ("measured", row.live))
        if value is not None
    ]
    bars(
        path, title="Live tensors of stage 1 on a CPU", unit="GiB", figures=figures, ours="planned"
    )


def _targets(
    measured: Sequence[Comparison],
    others: Sequence[Comparison],
    seven: Mapping[str, StagePlan],
    thirteen: Mapping[str, StagePlan],
) -> list[Target]:
    def worst(rows: Sequence[Comparison]) -> float:
        return 100 * max(abs(row.error) for row in rows)

    own = [row for row in measured if " ours" in row.name]
    live = [abs(row.live_error) for row in measured if row.live_error is not None]
    our_7b = seven["lora-sku"].total
    return [
        Target(
            "largest error of the tensors, all cells on this CPU",
            10,
            100 * max(live) if live else None,
            False,
            "%",
        ),
        Target("of the resident peak, lora-sku's cells", 10, worst(own), False, "%"),
        Target("largest error, published GPU rows", 15, worst(others), False, "%"),
        Target("7B at 1,024 tokens, tensors", 5.0, seven["lora-sku"].tensors / GIB, False, "GiB"),
        Target("the same with CUDA's context", 5.0, our_7b / GIB, False, "GiB"),
        Target(
            "13B at 1,024 tokens, tensors", 8.5, thirteen["lora-sku"].tensors / GIB, False, "GiB"
        ),
        Target("the same with CUDA's context", 8.5, thirteen["lora-sku"].total / GIB, False, "GiB"),
        Target(
            "7B as published in fp32, over ours",
            20,
            seven["published fp32"].total / our_7b,
            True,
            "x",
        ),
        Target(
            "7B as published in bf16, over ours",
            20,
            seven["published bf16"].total / our_7b,
            True,
            "x",
        ),
    ]


def _larger(one: StagePlan, other: StagePlan) -> StagePlan:
    return max(one, other, key=lambda stage: stage.total)


def _compare(name: str, stage: StagePlan, known_gib: float) -> Comparison:
    return Comparison(name, stage.total / GIB, stage.tensors / GIB, known_gib)


def _shape(source: str | LlamaShape, dtype: torch.dtype, quantization: Quantization) -> ModelShape:
    if isinstance(source, str):
        config = find_config(BaseModelSection(path=source))
        return model_shape(config, source, dtype, quantization)
    config = LlamaConfig(**asdict(source), tie_word_embeddings=False)
    return model_shape(config, "random Llama", dtype, quantization)
