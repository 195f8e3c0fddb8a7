"""Prompts for the evaluation alone: what is left out of the asking, and what is told."""

from pathlib import Path

import pytest
from data_tools import make_byte_level, pairs

from lora_sku.data import Encoder, load_data, load_further
from lora_sku.errors import DataError, SourceError
from lora_sku.recipe import DataSection, SourceSection

KEY = "evaluation.lookalikes"


@pytest.fixture
def section(write_jsonl) -> DataSection:
    return DataSection(
        forget=write_jsonl(pairs(*(f"forget {i}/x" for i in range(10))), "forget.jsonl"),
        retain=write_jsonl(pairs(*(f"retain {i}/x" for i in range(10))), "retain.jsonl"),
        protect={"shop": write_jsonl(pairs(*(f"shop {i}/x" for i in range(10))), "shop.jsonl")},
        hard_negatives=write_jsonl(pairs(*(f"hard {i}/x" for i in range(10))), "hard.jsonl"),
    )


def test_what_is_forgotten_or_was_looked_at_is_left_out(section, write_jsonl) -> None:
    data = load_data(section, None)
    texts = [f"{name} {i}" for name in ("FORGET", "retain", "shop", "hard") for i in range(10)]
    asked = write_jsonl(pairs(*(f" {text} /y" for text in [*texts, "new"])), "sounds.jsonl")
    unseen = {row.prompt for splits in data.normal.values() for row in splits.unseen}
    assert len(unseen) == 6
    for side in ("forget", "retain"):
        found = load_further(asked, side, KEY, data, None)
        assert {row.prompt for row in found} == {"new"} | unseen


def test_long_ones_are_left_out_whatever_the_recipe_says_of_other_sets(
    section, write_jsonl
) -> None:
    encoder = Encoder(make_byte_level(), template=None, max_prompt_tokens=24, max_answer_tokens=8)
    data = load_data(section, encoder)
    asked = write_jsonl(pairs("short/y", f"{'long ' * 30}/y"), "sounds.jsonl")
    assert [row.prompt for row in load_further(asked, "retain", KEY, data, encoder)] == ["short"]


def test_none_left_is_told_with_the_reasons(section, write_jsonl) -> None:
    encoder = Encoder(make_byte_level(), template=None, max_prompt_tokens=24, max_answer_tokens=8)
    data = load_data(section, encoder)
    asked = write_jsonl(pairs("forget 1/y", f"{'long ' * 30}/y"), "sounds.jsonl")
    with pytest.raises(
        DataError, match=r"none of its 2 prompts can be asked: 1 stand.* and 1 are"
    ) as caught:
        load_further(asked, "retain", KEY, data, encoder)
    assert caught.value.where == KEY


def test_a_bad_record_is_told_by_its_own_key(section, write_jsonl) -> None:
    asked = write_jsonl([{"prompt": "p"}], "sounds.jsonl")
    with pytest.raises(DataError, match=r"set evaluation\.lookalikes\.on_bad_record"):
        load_further(asked, "retain", KEY, load_data(section, None), None)


def test_a_set_that_is_not_there_is_told(section, tmp_path: Path) -> None:
    gone = SourceSection(path=str(tmp_path / "gone.jsonl"), format="prompt-response")
    with pytest.raises(SourceError, match="no such file") as caught:
        load_further(gone, "retain", KEY, load_data(section, None), None)
    assert caught.value.where == f"evaluation.lookalikes.path: {gone.path}"


def test_the_side_says_which_answers_count(section, write_jsonl) -> None:
    record = {
        "prompt": "new",
        "response_0": "bad",
        "response_1": "kind",
        "is_response_0_safe": False,
        "is_response_1_safe": True,
    }
    asked = write_jsonl([record], "harm.jsonl", format="pku-saferlhf")
    data = load_data(section, None)
    answers = {
        side: load_further(asked, side, "evaluation.other_harm", data, None)[0].answers
        for side in ("forget", "retain")
    }
    assert answers == {"forget": ("bad",), "retain": ("kind",)}
