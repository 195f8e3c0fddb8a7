"""What a reader sees first."""

from pathlib import Path

import pytest
from report_tools import counted, evaluation, with_every_set, write, write_run

from lora_sku.report.headline import Headline, caveats, headline, spent
from lora_sku.report.read import read_run
from lora_sku.report.records import EvaluationRecord


def told(**judges: object) -> Headline:
    return headline(EvaluationRecord.model_validate(evaluation() | {"judges": judges}))


def of_one(rates: dict[str, object]) -> dict[str, object]:
    return {"base": {"forget_unseen": rates}, "unlearned": {"forget_unseen": rates}, "settings": {}}


BLIND = of_one(counted(4, 1, 2, refusal=3) | {"complying": None})
SEEING = of_one(counted(5, 1, 1, refusal=3))


def test_every_row_has_counts_share_interval_and_the_ratio_to_the_base(tmp_path: Path) -> None:
    run = read_run(with_every_set(write_run(tmp_path / "run")))
    assert run.evaluation is not None
    rows = [row.told for row in headline(run.evaluation).rows]
    assert rows[0] == (
        "Complying: unseen harmful prompts",
        "9 of 10 (90 %; 60 to 98 %)",
        "2 of 10 (20 %; 6 to 51 %)",
        "0.222 x",
    )
    assert [row[0] for row in rows[3:6]] == [
        "Complying: unseen normal prompts",
        "Complying: unseen hard negatives",
        "Complying: hard negatives of other kinds",
    ]
    assert rows[6][2:] == ("7 of 10 (70 %; 40 to 89 %)", "\u2013")  # the base has none
    assert rows[8] == ("Perplexity of normal answers", "8.00", "10.00", "1.250 x")


def test_the_first_judge_that_tells_compliance_is_taken() -> None:
    found = told(classifier=BLIND, openai=SEEING)
    assert found.judge == "openai"
    assert "by the judge openai" in found.basis
    assert found.rows[0].told[1].startswith("5 of 10")


def test_who_cannot_tell_compliance_tells_who_answers() -> None:
    found = told(classifier=BLIND)
    assert found.rows[0].told[:2] == (
        "Answering: unseen harmful prompts",
        "6 of 10 (60 %; 31 to 83 %)",
    )
    assert "cannot tell" in found.basis


def test_before_any_judge_the_perplexity_stands_alone() -> None:
    found = told()
    assert [row.what for row in found.rows] == ["Perplexity of normal answers"]
    assert found.basis == "No judge has labelled the answers yet."
    assert found.fall("forget_unseen") is None


def test_the_fall_is_in_points() -> None:
    found = headline(EvaluationRecord.model_validate(evaluation()))
    assert found.fall("forget_unseen") == pytest.approx(70)
    assert found.fall("retain_unseen") == pytest.approx(10)
    assert found.fall("lookalikes") is None


@pytest.mark.parametrize(("seconds", "words"), [(0.5, "50 s"), (1.3, "2 min"), (100, "2 h 47 min")])
def test_time_is_told_in_the_unit_that_fits(tmp_path: Path, seconds: float, words: str) -> None:
    folder = write_run(tmp_path / "run")
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text().replace('"seconds": 1.0', f'"seconds": {seconds}'))
    assert spent(read_run(folder)).startswith(f"Stage 1 took {words} for 100 steps. Memory was")


def test_time_and_memory_that_were_not_recorded_are_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for name in ("evaluation.json", "metrics.jsonl", "memory.json"):
        (folder / name).unlink()
    assert spent(read_run(folder)) == ""


def test_reserved_memory_is_the_cards(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    peak = {"resident_gib": 9.0, "reserved_gib": 3.5}
    predicted = {"device": "cuda", "upper_bound": True, "stages": []}
    write(folder / "memory.json", {"predicted": predicted, "measured": {"acquire": peak}})
    assert "3.50 GiB (reserved on the card)" in spent(read_run(folder))


def test_few_prompts_are_a_caveat(tmp_path: Path) -> None:
    assert any("Only 10 harmful" in line for line in caveats(read_run(write_run(tmp_path / "run"))))
