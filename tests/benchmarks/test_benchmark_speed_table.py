"""What the speed report makes of timings."""

from pathlib import Path

import pytest

from benchmarks.clock import PARTS
from benchmarks.pairs import OURS, TEXTBOOK, Agreement, Timing
from benchmarks.speed_runs import Headline
from benchmarks.speed_table import Findings, make_report, plot, speed_up
from benchmarks.workload import Lengths
from lora_sku.recipe import Recipe
from lora_sku.step import StepLosses

AGREEMENT = Agreement(2, 1e-7, 1e-3, 1e-6, 1e-8)


def timings(*seconds: tuple[float, float]) -> list[Timing]:
    losses = StepLosses(loss=3.1, answer_tokens=40)
    return [
        Timing(step, name, taken, dict.fromkeys(PARTS, 0.1), losses)
        for step, pair in enumerate(seconds)
        for name, taken in zip((OURS, TEXTBOOK), pair, strict=True)
    ]


def result(peak_anonymous_gib: float) -> dict[str, dict[str, dict[str, float | None]]]:
    load = {"after_gib": 1.5, "after_anonymous_gib": 1.0}
    train = {"peak_anonymous_gib": peak_anonymous_gib, "peak_gib": 3.0, "reserved_gib": None}
    return {"phases": {"load": load, "train": train}}


def make_findings(recipe: Recipe, **keys: object) -> Findings:
    steps = timings((1.0, 2.0), (1.0, 3.0), (2.0, 2.0))
    headline = Headline(steps, timings((0.5, 1.0)), AGREEMENT, "bfloat16")
    grid = {Lengths(64, 32, 5, 2): timings((1.0, 1.5))}
    peaks = {"empty_process_gib": 0.3, OURS: result(1.4), TEXTBOOK: result(2.0)}
    values = {
        "recipe": recipe,
        "name": "demo",
        "changed": False,
        "headline": headline,
        "equal": AGREEMENT,
        "points": grid,
        "peaks": peaks,
    }
    return Findings(**values | keys)


def test_speed_up_is_the_median_of_paired_steps() -> None:
    assert speed_up(timings((1.0, 2.0), (1.0, 3.0), (2.0, 2.0))) == 2.0


def test_the_report(recipe: Recipe, tmp_path: Path) -> None:
    findings = make_findings(recipe)
    report = make_report(findings, "python -m benchmarks.speed")
    titles = [table.title for table in report.tables]
    assert len(titles) == len(set(titles)) == 6
    assert all(len(row) == len(table.columns) for table in report.tables for row in table.rows)
    speed, memory = report.tables[0].rows
    assert speed[2:] == ("2.00 x", "met")
    assert memory[2:] == ("0.40 x", "met")
    headline = {row[0]: row for row in report.tables[1].rows}
    # Three steps of 40 tokens in 4 and in 7 seconds.
    assert headline[OURS][1:4] == ("1.000", "0.750", "30.0")
    assert headline[TEXTBOOK][1:4] == ("2.000", "0.429", "17.1")
    split = {row[0]: row[1:] for row in report.tables[2].rows}
    assert split["the rest"] == ("0.600", "1.600")
    assert split["forget part alone"] == ("0.500", "1.000")
    plot(tmp_path / "plot.svg", findings)
    assert (tmp_path / "plot.svg").stat().st_size > 0


def test_what_was_not_measured_is_not_claimed(recipe: Recipe) -> None:
    report = make_report(make_findings(recipe, points={}, peaks=None, changed=True), "")
    assert len(report.tables) == 4
    speed, memory = report.tables[0].rows
    assert memory[3] == "not measured"
    assert "changed" in speed[0]


def test_the_raw_figures_hold_every_timing(recipe: Recipe) -> None:
    raw = make_report(make_findings(recipe), "").raw
    assert len(raw["headline"]["timings"]) == 6
    assert raw["grid"][0]["lengths"]["prompt_tokens"] == 64
    assert raw["grid"][0]["timings"][1]["seconds"] == pytest.approx(1.5)
