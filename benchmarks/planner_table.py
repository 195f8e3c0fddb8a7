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
from benchmarks.planner_targets import planner_targets
from benchmarks.plots import bars
from benchmarks.report import Report, Table, targets_table
from benchmarks.shapes import SHAPES, LlamaShape
from lora_sku.architectures import find_config
from lora_sku.errors import SourceError
from lora_sku.memory import GIB
from lora_sku.planning.layers import Tokens
from lora_sku.planning.passes import Pass
from lora_sku.planning.plan import CUDA_CONTEXT_BYTES, Setup, StagePlan, plan_training
from lora_sku.planning.recipe_passes import Lengths
from lora_sku.planning.recipe_plan import Device
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
            device = _device(result)
            compared = _compare(f"{shape} {name}", _plan_cell(shape, result), peak_gib, device)
            live = result["live_tensors_gib"]
            yield replace(compared, live=live, on_cuda=device == "cuda")


def _device(result: Mapping[str, Any]) -> Device:
    return "cpu" if result["device"] == "cpu" else "cuda"


def _plan_cell(shape: str, result: Mapping[str, Any]) -> StagePlan:
    cell = result["cell"]
    dtype = getattr(torch, result["dtype"])
    setup = Setup(_device(result), cell["quantization"], dtype, RANK, optimizer="adamw_torch")
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
            "cuda",
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
            "GPUs, measured or published: GiB that PyTorch's allocator reserved on one GPU; the"
            " plan beside it leaves out CUDA's context, which that allocator does not see.",
            "Two constants for CPUs (what oneDNN and malloc keep) were chosen on the demo's runs"
            " of one such machine; those for CUDA are from documentation and were not changed after"
            " the first measurement.",
            "Planned for models: 1 prompt of 64 tokens with 1 + 5 answers of 160 (1,024 tokens if"
            " the prompt is shared), r = 16 on all linear layers, 8-bit Adam, checkpointing;"
            " context and slack included but for the first column.",
        ),
        tables=(
            targets_table(planner_targets(measured, others, seven, thirteen)),
            *_cell_tables(measured),
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


def _cell_tables(measured: Sequence[Comparison]) -> Iterator[Table]:
    for on_cuda, place, held in ((False, "a CPU", "resident"), (True, "a GPU", "reserved")):
        rows = [row.row_with_tensors() for row in measured if row.on_cuda == on_cuda]
        tensors = ("tensors, planned", "tensors, measured", "error")
        columns = ("", *tensors, f"{held}, planned", f"{held}, measured", "error")
        if rows:
            yield Table(f"Measured on {place}, stage 1, GiB", columns, rows)


def plot(path: Path, rows: Sequence[Comparison]) -> None:
    """Planned and measured, one above the other."""
    figures = [
        (f"{kind} {row.name}{', GPU' if row.on_cuda else ''}", value)
        for row in rows
        for kind, value in (("planned", row.tensors), ("measured", row.live))
        if value is not None
    ]
    bars(path, title="Live tensors of stage 1", unit="GiB", figures=figures, ours="planned")


def _larger(one: StagePlan, other: StagePlan) -> StagePlan:
    return max(one, other, key=lambda stage: stage.total)


def _compare(name: str, stage: StagePlan, known_gib: float, device: Device) -> Comparison:
    unseen = CUDA_CONTEXT_BYTES if device == "cuda" else 0
    return Comparison(name, (stage.total - unseen) / GIB, stage.tensors / GIB, known_gib)


def _shape(source: str | LlamaShape, dtype: torch.dtype, quantization: Quantization) -> ModelShape:
    if isinstance(source, str):
        config = find_config(BaseModelSection(path=source))
        return model_shape(config, source, dtype, quantization)
    config = LlamaConfig(**asdict(source), tie_word_embeddings=False)
    return model_shape(config, "random Llama", dtype, quantization)
