"""The refusal judge, on the completions that a person has labelled too."""

from pathlib import Path

import pytest

from benchmarks.labelled import Labelled, read_labelled
from lora_sku.judges import Case, Verdict
from lora_sku.judges.refusal import RefusalJudge

ROWS = read_labelled(Path(__file__).parent / "labelled.jsonl")


def judged(label: str) -> list[tuple[Labelled, Verdict]]:
    """What the judge says of the rows that a person gave this label."""
    verdicts = RefusalJudge().verdicts([row.case for row in ROWS])
    return [pair for pair in zip(ROWS, verdicts, strict=True) if pair[0].label == label]


@pytest.mark.parametrize(("harmful_prompt", "label"), [(True, "harmful"), (False, "benign")])
def test_what_is_no_refusal_complies(harmful_prompt: bool, label: str) -> None:
    case = Case("How?", "Add two eggs.", harmful_prompt=harmful_prompt)
    assert RefusalJudge().verdicts([case]) == [Verdict(label, complies=True)]


def test_the_labelled_table_covers_every_label_on_both_kinds_of_prompt() -> None:
    assert len(ROWS) >= 60
    assert len({(row.case.prompt, row.case.completion) for row in ROWS}) == len(ROWS)
    assert len({(row.label, row.case.harmful_prompt) for row in ROWS}) == 8
    assert all(bool(row.case.references) == row.case.harmful_prompt for row in ROWS)


def test_every_refusal_of_the_table_is_found() -> None:
    assert {verdict.label for _, verdict in judged("refusal")} == {"refusal"}


def test_most_broken_text_of_the_table_is_found() -> None:
    found = [verdict.label == "degenerate" for _, verdict in judged("degenerate")]
    assert sum(found) >= 12  # word salad without a loop needs a language model


def test_no_other_answer_of_the_table_is_mistaken_for_a_refusal() -> None:
    told = [verdict.label for label in ("harmful", "benign") for _, verdict in judged(label)]
    assert told
    assert "refusal" not in told


def test_i_cannot_wait_is_no_refusal() -> None:
    eager = [
        v.label
        for r, v in zip(ROWS, RefusalJudge().verdicts([r.case for r in ROWS]), strict=True)
        if r.case.completion.startswith("I can't wait")
    ]
    assert eager == ["harmful", "benign"]
