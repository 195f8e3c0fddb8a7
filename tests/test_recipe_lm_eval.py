"""The section for lm-evaluation-harness: a list is enough."""

from typing import Any

import pytest
from pydantic import ValidationError

from lora_sku.recipe_lm_eval import LmEvalSection


def test_a_list_is_a_list_of_tasks() -> None:
    short = LmEvalSection.model_validate(["arc_easy", "piqa"])
    assert short == LmEvalSection(tasks=("arc_easy", "piqa"))
    assert (short.limit, short.num_fewshot, short.include_path) == (None, None, None)
    assert LmEvalSection.model_validate(short.model_dump()) == short


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {"tasks": []},
        "arc_easy",
        {"tasks": ["a"], "limit": 0},
        {"tasks": ["a"], "num_fewshot": -1},
        {"tasks": ["a"], "shots": 5},
    ],
)
def test_faults(value: Any) -> None:
    with pytest.raises(ValidationError):
        LmEvalSection.model_validate(value)
