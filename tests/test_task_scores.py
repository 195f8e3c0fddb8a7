"""Both models' figures on tasks, side by side."""

from lora_sku.task_scores import BeforeAfter, Measured, TaskRow, beside, task_rows

BASE = Measured({"colours": {"acc": 0.5, "acc_stderr": 0.25}, "words": {"f1,strict": 2.0}}, {})
UNLEARNED = Measured(
    {"colours": {"acc": 0.25, "acc_stderr": 0.125}, "words": {"f1,strict": None}}, {}
)


def test_each_metric_stands_beside_itself() -> None:
    assert beside(BASE, UNLEARNED) == {
        "colours": {"acc": BeforeAfter(0.5, 0.25), "acc_stderr": BeforeAfter(0.25, 0.125)},
        "words": {"f1,strict": BeforeAfter(2.0, None)},
    }


def test_a_metric_the_unlearned_model_lacks_is_no_number() -> None:
    poorer = Measured({"colours": {"acc": 0.25}, "words": {}}, {})
    assert beside(BASE, poorer)["colours"]["acc_stderr"] == BeforeAfter(0.25, None)


def test_a_row_has_its_own_standard_error() -> None:
    scores = beside(BASE, UNLEARNED)
    scores["words"]["f1_stderr"] = BeforeAfter(9.0, 9.0)  # of another filter
    assert list(task_rows(scores)) == [
        TaskRow("colours", "acc", BeforeAfter(0.5, 0.25), BeforeAfter(0.25, 0.125)),
        TaskRow("words", "f1,strict", BeforeAfter(2.0, None), BeforeAfter(None, None)),
    ]
