"""Runs cells, each in a Python process of its own, so that no cell sees another one's memory."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.cell import Cell

ROOT = Path(__file__).resolve().parents[1]

_EMPTY = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from lora_sku.memory import PeakMeter
meter = PeakMeter(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
meter.start()
print(meter.read().working_gib)
"""

# Of a failed cell's error.
_MOST_CHARACTERS = 600


def run_cell(cell: "Cell", *, minutes: float = 60) -> dict[str, Any]:
    """`benchmarks.cell.measure` in a fresh process.

    A cell that fails, or takes longer than ``minutes``, says so under "failed".
    """
    try:
        done = _python(
            *("-m", "benchmarks.memory", "--cell", json.dumps(asdict(cell))), minutes=minutes
        )
    except subprocess.TimeoutExpired:
        return {"cell": asdict(cell), "failed": f"not done after {minutes:g} minutes"}
    if done.returncode != 0:
        # The error itself, without the traceback and its paths.
        told = "".join(done.stderr.strip().splitlines()[-1:])[:_MOST_CHARACTERS]
        return {"cell": asdict(cell), "failed": f"exit code {done.returncode}: {told}"}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_twice(cell: "Cell", *, minutes: float = 60) -> dict[str, Any]:
    """`run_cell`, and on a CPU once more for the live tensors, under "live_tensors_gib"."""
    result = run_cell(cell, minutes=minutes)
    if result.get("device") == "cpu":
        traced = run_cell(replace(cell, traced=True, limit_gib=None), minutes=minutes)
        result["live_tensors_gib"] = traced.get("live_tensors_gib")
    elif "failed" not in result:
        result["live_tensors_gib"] = result["phases"]["train"]["allocated_gib"]
    return result


def empty_process_gib() -> float:
    """What Python holds with torch and transformers' Llama imported and nothing done."""
    done = _python("-c", _EMPTY)
    done.check_returncode()
    return float(done.stdout.splitlines()[-1])


def _python(*arguments: str, minutes: float | None = None) -> subprocess.CompletedProcess[str]:
    command: Sequence[str] = [sys.executable, *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=None if minutes is None else minutes * 60,
    )
