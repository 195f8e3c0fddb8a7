"""Which cells are measured, and what the report makes of their figures."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.memory_table import Row, make_report, plan, plot, targets
from benchmarks.workload import Lengths

LENGTHS = Lengths(64, 160, 5, 1)
EMPTY = 0.3
CELL = {"model": "/home/somebody/models/llama-1b"}


def result(load: float, train: float, negate: float = 0.4) -> dict[str, Any]:
    def figures(peak: float, after: float) -> dict[str, float | None]:
        kinds = ("peak_anonymous_gib", "peak_file_gib", "after_anonymous_gib", "after_file_gib")
        known = {"peak_gib": peak, "after_gib": after, "seconds": 1.0, "reserved_gib": None}
        return known | dict.fromkeys(kinds, 0.1)

    return {
        "cell": CELL,
        "dtype": "bfloat16",
        "live_tensors_gib": 0.777,
        "phases": {
            "load": figures(load, load - 0.1),
            "train": figures(train, train),
            "negate": figures(negate, negate),
        },
    }


ROWS: list[Row] = [
    ("tiny", "ours-nf4", result(0.4, 0.4)),
    ("tiny", "published", result(40.0, 40.0)),
    ("0.9b", "ours-nf4", result(0.8, 1.3)),
    ("0.9b", "published", result(3.0, 10.3)),
    ("0.9b", "published-float32", result(6.0, 20.3)),
    ("1b", "ours-nf4", result(0.9, 1.3 + 0.1)),
    ("1b", "published", result(5.0, 11.3, 14.3)),
    ("1b", "published-float32", {"cell": CELL, "failed": "exit code -9: killed"}),
    ("7b", "ours-nf4", result(6.8, 6.0)),
]


def test_the_largest_model_is_ours_alone() -> None:
    names = [name for name, _ in plan("m", LENGTHS, 2, ours_only=False)]
    assert set(names) == {
        *("ours-nf4", "ours-int8", "ours-none", "textbook-nf4"),
        *("full", "published", "published-float32"),
    }
    ((name, cell_of),) = plan("m", LENGTHS, 3, ours_only=True)
    cell = cell_of(2.5)
    assert name == "ours-nf4"
    assert (cell.method, cell.model, cell.steps, cell.limit_gib) == ("ours", "m", 3, 2.5)


def test_targets_from_the_figures() -> None:
    training, loading, float32, ours = targets(ROWS, EMPTY)
    assert training.measured == pytest.approx(5.7)
    assert loading.measured == pytest.approx(0.8)
    # float32 fitted on the smaller shape only; its toy of a shape does not count.
    assert float32.measured == pytest.approx(20.0)
    assert "0.9b" in float32.promise
    assert ours.measured == pytest.approx(14.0 / 1.1)
    assert "1b" in ours.promise
    assert [t.verdict for t in (training, loading, float32, ours)] == [
        *("met", "met", "met"),
        "**missed**",
    ]
    assert {target.measured for target in targets([], EMPTY)} == {None}


def test_the_report_tells_what_failed(tmp_path: Path) -> None:
    report = make_report(ROWS, EMPTY, LENGTHS, "python -m benchmarks.memory")
    _, peaks, kinds = report.tables
    assert [row[0] for row in peaks.rows] == [f"{shape} {name}" for shape, name, _ in ROWS]
    assert all(len(row) == len(table.columns) for table in report.tables for row in table.rows)
    assert "failed" in peaks.rows[7][1]
    assert peaks.rows[3][-2:] == ("10.00", "10.0 x")
    assert len(kinds.rows) == 3 * (len(ROWS) - 1)
    assert report.raw["cells"][7][2]["failed"] == "exit code -9: killed"
    assert {result["cell"]["model"] for _, _, result in report.raw["cells"]} == {"llama-1b"}
    plot(tmp_path / "plot.svg", ROWS, EMPTY)
    assert (tmp_path / "plot.svg").stat().st_size > 0
