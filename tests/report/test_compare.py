"""Runs side by side."""

import json
from pathlib import Path

import pytest
from report_tools import (
    ENVIRONMENT,
    evaluation,
    sweep,
    with_likeness,
    with_lookalikes,
    with_tasks,
    write,
    write_run,
)
from test_page import NASTY, Seen

from lora_sku.errors import RunDirectoryError
from lora_sku.report import compare_runs, write_comparison


def test_settings_that_differ_and_all_figures(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", training={"max_steps": 10})
    second = write_run(tmp_path / "second", training={"max_steps": 20})
    value = json.loads((second / "evaluation.json").read_text())
    value["unlearned"]["forget_unseen_nll"] = 2.0
    write(second / "evaluation.json", value)
    found = compare_runs([first, second])
    assert found.names == ("first", "second")
    assert ("training.max_steps", "10", "20") in found.settings
    assert {row[0] for row in found.settings} <= {
        "training.max_steps",
        "data.forget.path",
        "data.retain.path",
    }
    figures = {row[0]: row[1:] for row in found.figures}
    assert figures["Gain on unseen harmful answers (nats/token)"] == ("+0.750", "\u22120.500")
    assert figures["Complying: unseen harmful prompts"][0] == (
        "9 \u2192 2 of 10 (20 %; 6 to 51 %), 0.222 x"
    )
    assert figures["Perplexity of normal answers"][0] == "8.00 \u2192 10.00, 1.250 x"
    assert figures["Judge of what follows"] == ("compliance", "compliance")
    harm = "compliance: complying, unseen harmful prompts"
    assert figures[harm][0] == "9 \u2192 2 of 10 (20 %; 6 to 51 %)"
    rows = [row[0] for row in found.figures]
    assert rows[rows.index(harm) + 1] == "compliance: degenerate, unseen harmful prompts"


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    assert compare_runs(runs).warnings == ()
    write(runs[1] / "environment.json", ENVIRONMENT | {"data_fingerprint": "e"})
    (runs[0] / "evaluation.json").unlink()
    found = compare_runs(runs)
    told = " ".join(found.warnings)
    assert "different data" in told
    assert "a is not finished" in told
    assert ("data_fingerprint", "d" * 16, "e") in found.surroundings
    assert {row[0]: row[1] for row in found.figures}["KL to the base (nats/token)"] == "\u2013"


def test_rates_of_a_judge_with_other_thresholds_cannot_be_compared(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    judged = evaluation()
    judged["judges"]["compliance"]["settings"] = {"auc": 0.8}
    write(runs[1] / "evaluation.json", judged)
    assert [told.partition(" ")[0] for told in compare_runs(runs).warnings] == ["compliance"]
    (runs[1] / "evaluation.json").unlink()
    assert not any("compliance labelled" in told for told in compare_runs(runs).warnings)


def test_two_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name / "run") for name in ("a", "b")]
    assert compare_runs(runs).names == tuple(map(str, runs))
    assert len(set(compare_runs([runs[0], runs[0]]).names)) == 2


def test_one_run_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="nothing to compare"):
        compare_runs([write_run(tmp_path / "run")])


def test_the_page_is_whole_and_obeys_no_name(tmp_path: Path) -> None:
    name = NASTY[:60].replace("/", "_").replace("\x00", "")
    runs = [write_run(tmp_path / name), write_run(tmp_path / "b")]
    write_comparison(compare_runs(runs), tmp_path / "compare.html")
    seen = Seen((tmp_path / "compare.html").read_text(encoding="utf-8"))
    assert seen.open == []
    assert not {"script", "img"} & seen.tags.keys()
    assert not [key for key, _ in seen.attributes if key.startswith("on")]
    assert "Trade-offs on the validation splits" in seen.shown
    assert "How far compliance fell, on unseen prompts" in seen.shown


def test_lookalikes_have_rows_where_a_run_asked_them(tmp_path: Path) -> None:
    old, new = write_run(tmp_path / "old"), with_lookalikes(write_run(tmp_path / "new"))
    row = "compliance: refusal, harmless look-alikes"
    figures = {each[0]: each[1:] for each in compare_runs([old, new]).figures}
    assert figures[row] == ("none judged", "0 \u2192 4 of 10 (40 %; 17 to 69 %)")
    assert row not in {each[0] for each in compare_runs([old, old]).figures}


def test_runs_that_nobody_judged_have_no_figure_of_compliance(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    for run in runs:
        write(run / "evaluation.json", evaluation() | {"judges": {}})
    write_comparison(compare_runs(runs), tmp_path / "compare.html")
    seen = Seen((tmp_path / "compare.html").read_text(encoding="utf-8"))
    assert "How far compliance fell, on unseen prompts" not in seen.shown


def test_one_sweep_with_refusals_is_enough_to_draw_them(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name) for name in ("a", "b")]
    write(runs[1] / "sweep.json", sweep((3, 8, 9, 10)))
    write_comparison(compare_runs(runs), tmp_path / "compare.html")
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert "a chose 0.000 at 1.040 times; b chose 80.000 at 1.040 times" in page


def test_likeness_is_told_beside_the_runs_that_know_none(tmp_path: Path) -> None:
    old, new = write_run(tmp_path / "old"), with_likeness(write_run(tmp_path / "new"))
    figures = {each[0]: each[1:] for each in compare_runs([old, new]).figures}
    to_base = "Answers to normal prompts, how like the base's (ROUGE-L)"
    to_given = "Answers to normal prompts, how like the given ones (ROUGE-L)"
    assert figures[to_base] == ("\u2013", "0.750")
    assert figures[to_given] == ("\u2013", "0.500 \u2192 0.250")


def test_tasks_have_rows_where_a_run_has_them(tmp_path: Path) -> None:
    old, new = write_run(tmp_path / "old"), with_tasks(write_run(tmp_path / "new"))
    figures = {each[0]: each[1:] for each in compare_runs([old, new]).figures}
    assert figures["lm-eval colours: acc"] == ("\u2013", "0.500 \u2192 0.375")
    assert not [name for name in figures if "stderr" in name]
