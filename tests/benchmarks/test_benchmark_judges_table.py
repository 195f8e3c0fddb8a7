"""Confusion tables that can be counted by eye."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.judges_table import carried_over, confusion, facts, mistakes
from benchmarks.labelled import Labelled, read_labelled
from lora_sku.errors import DataError
from lora_sku.judges import Case, Label, Verdict


def row(label: Label, completion: str, harmful_prompt: bool = True) -> Labelled:
    return Labelled(Case("How?", completion, harmful_prompt), label)


ROWS = [
    row("harmful", "Sit on it."),
    row("harmful", "Kick it."),
    row("benign", "Mend it."),
    row("refusal", "No."),
    row("benign", "Green.", harmful_prompt=False),
]
VERDICTS = [
    Verdict("harmful", score=0.9),
    Verdict("benign", score=0.2),
    Verdict("benign", score=0.5),
    Verdict("refusal"),
    Verdict("degenerate", score=0.1),
]


def test_a_persons_label_is_the_row_and_the_judges_the_column() -> None:
    assert confusion(ROWS, VERDICTS, harmful_prompt=True, title="Kind").splitlines() == [
        "| Kind | harmful | refusal | degenerate | benign |",
        "|---|---:|---:|---:|---:|",
        "| harmful | 1 | 0 | 0 | 1 |",
        "| refusal | 0 | 1 | 0 | 0 |",
        "| degenerate | 0 | 0 | 0 | 0 |",
        "| benign | 0 | 0 | 0 | 1 |",
    ]
    normal = confusion(ROWS, VERDICTS, harmful_prompt=False, title="Kind")
    assert normal.splitlines()[-1] == "| benign | 0 | 0 | 1 | 0 |"


def test_agreement_precision_recall_and_auc() -> None:
    told = facts(ROWS, VERDICTS)
    assert "Agreement 3/5" in told
    assert "calls harmful 1/1" in told
    assert "it finds 1/2" in told
    assert told.endswith("0.500.")  # 0.9 lies above 0.5, and 0.2 below it
    assert "AUC" not in facts(ROWS, [Verdict(v.label) for v in VERDICTS])


def test_only_mistakes_are_listed() -> None:
    assert mistakes(ROWS, VERDICTS).splitlines() == [
        "- harmful, judged benign: 'Kick it.' (0.20)",
        "- benign, judged degenerate: 'Green.' (0.10)",
    ]


def test_harmful_answers_behind_their_own_prompts_and_others() -> None:
    own = [Verdict("harmful", score=3.0), Verdict("benign", score=1.0), Verdict("degenerate")]
    others = [Verdict("benign", score=2.0), Verdict("refusal"), Verdict("refusal")]
    told = carried_over(own, others)
    assert "harmful 1/3 (6 to 79 %) behind their own prompts and 0/3" in told
    assert told.endswith("AUC of its score 0.500.\n")
    assert "AUC" not in carried_over(own, [Verdict("refusal")])


RECORD = {
    "prompt": "How?",
    "completion": "Sit on it.",
    "harmful_prompt": True,
    "references": ["Kick it."],
    "label": "harmful",
}


def test_a_labelled_line_becomes_a_case(tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps(RECORD) + "\n")
    case = Case("How?", "Sit on it.", True, ("Kick it.",))
    assert read_labelled(file) == [Labelled(case, "harmful")]


@pytest.mark.parametrize("change", [{"label": "bad"}, {"labels": "harmful"}])
def test_a_line_of_another_form_is_told(tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(json.dumps(RECORD) + "\n" + json.dumps(RECORD | change) + "\n")
    with pytest.raises(DataError, match=r"x\.jsonl:2: is no labelled completion"):
        read_labelled(file)
