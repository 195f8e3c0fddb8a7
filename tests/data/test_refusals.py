"""Prompts that are refused: which, and how often each."""

import random

from lora_sku.data import Row, draw_refused

ROWS = [Row(f"prompt {number}", (f"answer {number}",)) for number in range(20)]
REFUSALS = ("No.", "I will not.")


def test_each_prompt_is_refused_once_and_never_answered() -> None:
    drawn = draw_refused(ROWS, REFUSALS, 12, random.Random(0))
    assert len({prompt for prompt, _ in drawn}) == 12
    assert {prompt for prompt, _ in drawn} <= {row.prompt for row in ROWS}
    assert {answer for _, answer in drawn} == set(REFUSALS)


def test_fewer_prompts_than_asked_for_are_all_of_them() -> None:
    drawn = draw_refused(ROWS, REFUSALS, 100, random.Random(0))
    assert sorted(prompt for prompt, _ in drawn) == sorted(row.prompt for row in ROWS)


def test_chance_decides_alone() -> None:
    one, same, other = (draw_refused(ROWS, REFUSALS, 9, random.Random(n)) for n in (0, 0, 1))
    assert one == same != other
