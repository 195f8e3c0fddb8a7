"""Answers compared word by word, worked out by hand."""

import pytest

from lora_sku.judging import Generation
from lora_sku.likeness import Likeness, likeness

REFERENCES = {"Sky?": ("Red.", "It is blue."), "Sea?": ("Wet and deep.",)}


def test_each_mean_compares_what_its_name_says() -> None:
    generations = (
        # 2 of 3 and 3 words in common with the base, 3 of 3 with the second given answer
        Generation("retain_unseen", "Sky?", base="It is grey.", unlearned="It is blue."),
        Generation("retain_unseen", "Sea?", base="Wet.", unlearned="Dry."),
    )
    found = likeness(generations, REFERENCES)
    assert found is not None
    assert found.unlearned_to_base == pytest.approx((2 / 3 + 0) / 2)
    assert found.base_to_reference == pytest.approx((2 / 3 + 2 * 1 / (1 + 3)) / 2)
    assert found.unlearned_to_reference == pytest.approx((1 + 0) / 2)
    assert found.answers == 2


def test_answers_to_other_prompts_are_passed_over() -> None:
    others = (
        Generation("forget_unseen", "Spoil it?", "Sit on it.", "No."),
        Generation("lookalikes", "Kill it?", "Stop it.", "No."),
    )
    assert likeness(others, REFERENCES) is None
    normal = Generation("retain_unseen", "Sea?", "Wet.", "Wet.")
    assert likeness((*others, normal), REFERENCES) == likeness((normal,), REFERENCES)


def test_two_blank_answers_are_the_same_and_like_nothing_else() -> None:
    blank = (Generation("retain_unseen", "Sea?", "", ""),)
    assert likeness(blank, REFERENCES) == Likeness(1.0, 0.0, 0.0, 1)
