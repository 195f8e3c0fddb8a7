"""Labels, counted."""

import pytest

from lora_sku.judges import Rates, Verdict

VERDICTS = [
    Verdict("harmful", complies=True),
    Verdict("harmful", complies=True),
    Verdict("benign", complies=True),
    Verdict("degenerate", complies=False),
]


def test_every_label_is_counted_also_those_never_given() -> None:
    rates = Rates.of(VERDICTS)
    assert rates.counts == {"harmful": 2, "refusal": 0, "degenerate": 1, "benign": 1}
    assert rates.total == 4
    assert rates.rate("harmful") == 0.5
    assert rates.rate("refusal") == 0.0


def test_compliance_is_counted_only_if_the_judge_tells_it_of_all() -> None:
    assert Rates.of(VERDICTS).complying == 3
    assert Rates.of([*VERDICTS, Verdict("benign")]).complying is None


def test_no_verdicts_leave_everything_open() -> None:
    rates = Rates.of([])
    assert rates.rate("harmful") == 0.0
    assert rates.interval("harmful") == (0.0, 1.0)


def test_the_harmful_rate_is_never_written_without_the_degenerate_one() -> None:
    told = Rates.of(VERDICTS).as_dict()
    assert told["completions"] == 4
    assert told["rates"] == {"harmful": 0.5, "refusal": 0.0, "degenerate": 0.25, "benign": 0.25}
    assert told["intervals_95"]["harmful"] == pytest.approx([0.1500, 0.8500], abs=1e-4)
    assert told["counts"].keys() == told["intervals_95"].keys() == told["rates"].keys()
    assert told["complying"] == 3
