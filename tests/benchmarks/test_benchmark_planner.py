"""Planned beside measured: every cell is planned with its own settings."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import planner
from benchmarks.comparison import Comparison
from benchmarks.planner_table import measured_rows, published_rows
from lora_sku.errors import UserError


def cell(method: str, quantization: str, peak_gib: float) -> dict[str, object]:
    lengths = {"prompt_tokens": 6, "answer_tokens": 4, "responses": 2, "prompts": 1}
    return {
        "cell": {"method": method, "quantization": quantization, "model": "", "lengths": lengths},
        "device": "cpu",
        "dtype": "bfloat16",
        "live_tensors_gib": peak_gib / 2,
        "phases": {"train": {"peak_gib": peak_gib}},
    }


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    cells = [
        ["tiny", "ours-nf4", cell("ours", "nf4", 1.5)],
        ["tiny", "textbook-nf4", cell("textbook", "nf4", 2.5)],
        ["tiny", "full", cell("full", "none", 3.5)],
        ["tiny", "published", cell("published", "none", 4.5)],
        ["tiny", "published-float32", {"failed": "killed"}],
    ]
    file = tmp_path / "2000-01-01-memory.json"
    file.write_text(json.dumps({"empty_process_gib": 0.5, "cells": cells}), encoding="utf-8")
    return file


def test_a_cell_is_compared_above_an_empty_process(measured: Path) -> None:
    rows = {row.name: row for row in measured_rows(measured)}
    assert {name: row.known for name, row in rows.items()} == {
        "tiny ours-nf4": 1.0,
        "tiny textbook-nf4": 2.0,
        "tiny full": 3.0,
        "tiny published": 4.0,
    }
    assert rows["tiny ours-nf4"].live == 0.75
    assert rows["tiny ours-nf4"].tensors < rows["tiny textbook-nf4"].tensors
    assert rows["tiny full"].tensors < rows["tiny published"].tensors


def test_the_error_is_the_plans_own() -> None:
    assert Comparison("x", planned=1.2, tensors=1.0, known=1.0).error == pytest.approx(0.2)
    assert Comparison("x", planned=0.9, tensors=0.8, known=1.0).row()[-1] == "-10 %"


def test_tensors_are_compared_with_tensors() -> None:
    counted = Comparison("x", planned=1.2, tensors=0.9, known=1.0, live=1.0)
    assert counted.row_with_tensors() == ("x", "0.90", "1.00", "-10 %", "1.20", "1.00", "+20 %")
    unknown = Comparison("x", planned=1.2, tensors=0.9, known=1.0)
    assert unknown.live_error is None
    assert unknown.row_with_tensors()[2:4] == ("", "")


def test_published_runs_are_planned_within_15_percent() -> None:
    rows = published_rows()
    assert len(rows) == 3
    assert all(abs(row.error) < 0.15 for row in rows)


def test_the_command_writes_its_report(measured: Path) -> None:
    words = ["--reports", str(measured.parent)]
    done = CliRunner().invoke(planner.main, words, catch_exceptions=False)
    report = Path(done.stdout.strip()).read_text(encoding="utf-8")
    assert "tiny published" in report
    assert "torchtune" in report
    assert "| 70B |" in report


def test_a_cell_of_a_gpu_stands_beside_the_cpus_and_without_cudas_context(measured: Path) -> None:
    on_gpu = cell("ours", "nf4", 2.0) | {"device": "cuda:0"}
    cells = {"empty_process_gib": 0.0, "cells": [["tiny", "ours-nf4", on_gpu]]}
    later = measured.parent / "2000-01-01-memory-2.json"
    later.write_text(json.dumps(cells), encoding="utf-8")
    (row,) = measured_rows(later)
    assert row.on_cuda
    assert row.known == 2.0
    # A model of kilobytes: cuBLAS's workspace is nearly all that is planned beside the context.
    assert 0.03 < row.planned < 0.1
    words = ["--reports", str(measured.parent)]
    done = CliRunner().invoke(planner.main, words, catch_exceptions=False)
    report = Path(done.stdout.strip()).read_text(encoding="utf-8")
    cpu, gpu = report.split("## Measured on a GPU, stage 1, GiB")
    assert "## Measured on a CPU, stage 1, GiB" in cpu
    assert cpu.count("tiny ours-nf4") == gpu.count("tiny ours-nf4") == 1


def test_without_a_measured_peak_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no measured peaks") as caught:
        CliRunner().invoke(planner.main, ["--reports", str(tmp_path)], catch_exceptions=False)
    assert "benchmarks.memory" in caught.value.remedy


@pytest.mark.parametrize("text", ["{", "[]", '{"other": 1}'])
def test_a_file_without_measured_peaks_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="no figures of a memory report") as caught:
        list(measured_rows(file))
    assert caught.value.where == str(file)


def test_of_two_reports_with_the_same_cell_the_newer_counts(measured: Path) -> None:
    newer = {"empty_process_gib": 0.5, "cells": [["tiny", "full", cell("full", "none", 9.5)]]}
    later = measured.parent / "2000-01-01-memory-2.json"
    later.write_text(json.dumps(newer), encoding="utf-8")
    words = ["--reports", str(measured.parent)]
    done = CliRunner().invoke(planner.main, words, catch_exceptions=False)
    raw = json.loads(Path(done.stdout.strip()).with_suffix(".json").read_text(encoding="utf-8"))
    known = {row["name"]: row["known"] for row in raw["measured"]}
    assert known["tiny full"] == 9.0
    assert len(raw["measured"]) == 4
