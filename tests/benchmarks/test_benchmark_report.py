"""Reports say what they were given."""

import datetime
import json
from pathlib import Path

from benchmarks.plots import bars
from benchmarks.report import Report, Table, Target, targets_table, write_report

DAY = datetime.date(2026, 2, 3)


def make_report() -> Report:
    return Report(
        name="thing",
        title="How large a thing is",
        command="python -m benchmarks.thing --size 3",
        machine={"device": "an abacus"},
        rulers=("With a ruler.",),
        tables=(Table("Sizes", ("", "GiB"), [("a | b", "1.00")], "All of them."),),
        raw={"sizes": [1.0]},
    )


def draw(path: Path) -> None:
    bars(path, title="Sizes", unit="GiB", figures=[("ours", 1.0), ("other", 2.0)], ours="ours")


def test_three_files_with_what_was_given(tmp_path: Path) -> None:
    file = write_report(make_report(), tmp_path / "reports", draw, day=DAY)
    assert sorted(path.name for path in file.parent.iterdir()) == [
        f"2026-02-03-thing.{ending}" for ending in ("json", "md", "svg")
    ]
    text = file.read_text(encoding="utf-8")
    for said in (
        "# How large a thing is",
        "python -m benchmarks.thing --size 3",
        "- device: an abacus",
        "- With a ruler.",
        "All of them.",
        "| a \\| b | 1.00 |",
        "(2026-02-03-thing.svg)",
        "(2026-02-03-thing.json)",
    ):
        assert said in text
    raw = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    assert raw == {
        "command": "python -m benchmarks.thing --size 3",
        "machine": {"device": "an abacus"},
        "sizes": [1.0],
    }
    assert "<svg" in file.with_suffix(".svg").read_text(encoding="utf-8")


def test_a_second_report_of_a_day_leaves_the_first(tmp_path: Path) -> None:
    stems = [write_report(make_report(), tmp_path, draw, day=DAY).stem for _ in range(3)]
    assert stems == ["2026-02-03-thing", "2026-02-03-thing-2", "2026-02-03-thing-3"]
    assert "(2026-02-03-thing-3.json)" in (tmp_path / "2026-02-03-thing-3.md").read_text()
    assert len(list(tmp_path.iterdir())) == 9


def test_the_same_report_is_the_same_files(tmp_path: Path) -> None:
    first, second = (
        write_report(make_report(), tmp_path / name, draw, day=DAY) for name in ("a", "b")
    )
    for ending in (".json", ".md", ".svg"):
        assert first.with_suffix(ending).read_bytes() == second.with_suffix(ending).read_bytes()


def test_without_a_plot_there_is_none(tmp_path: Path) -> None:
    file = write_report(make_report(), tmp_path, day=DAY)
    assert not file.with_suffix(".svg").exists()
    assert ".svg" not in file.read_text(encoding="utf-8")


def test_a_target_is_met_missed_or_not_measured() -> None:
    def verdict(measured: float | None, *, at_least: bool) -> str:
        return Target("", 2.0, measured, at_least, "x").verdict

    assert verdict(2.0, at_least=True) == verdict(2.0, at_least=False) == "met"
    assert verdict(1.9, at_least=True) == verdict(2.1, at_least=False) == "**missed**"
    assert verdict(None, at_least=True) == "not measured"
    rows = targets_table([Target("small", 2.0, 1.5, False, "GiB")]).rows
    assert rows == [("small", "at most 2 GiB", "1.50 GiB", "met")]
