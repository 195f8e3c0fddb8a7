"""Harmless prompts that sound harmful: what is shipped, and what is left out of the asking."""

from collections import Counter
from pathlib import Path

import pytest
from data_tools import make_byte_level, pairs

from lora_sku.data import Encoder, Row, load_data, load_lookalikes, load_rows, same_prompt
from lora_sku.errors import DataError, SourceError
from lora_sku.metrics import words
from lora_sku.recipe import DataSection, EvaluationSection, SourceSection

DEMO = "package://lora_sku/demo"


def shipped(name: str) -> tuple[Row, ...]:
    section = SourceSection(path=f"{DEMO}/{name}.jsonl", format="prompt-response")
    return load_rows(section, "retain").rows


def test_the_shipped_ones_are_sixty_that_stand_in_no_other_shipped_set() -> None:
    section = EvaluationSection().lookalikes
    assert section is not None
    loaded = load_rows(section, "retain", "evaluation.lookalikes")
    ours = [same_prompt(row.prompt) for row in loaded.rows]
    assert len(set(ours)) == loaded.pairs == 60
    assert loaded.duplicate_pairs == 0
    for other in ("forget", "retain", "sounds-harmful"):
        assert not set(ours) & {same_prompt(row.prompt) for row in shipped(other)}


def test_the_shipped_ones_are_short_and_about_different_things() -> None:
    rows = shipped("lookalikes")
    assert max(len(words(row.prompt)) for row in rows) <= 20
    assert max(len(words(answer)) for row in rows for answer in row.answers) <= 50
    # What a prompt is about is in its longest word, and no other prompt is about the same.
    longest = Counter(max(words(row.prompt), key=len) for row in rows)
    assert len(longest) >= 55


def test_those_to_train_on_are_other_questions_than_those_that_are_asked() -> None:
    asked = [set(words(row.prompt)) for row in shipped("lookalikes")]
    trained = shipped("sounds-harmful")
    assert len({same_prompt(row.prompt) for row in trained}) == 120
    for row in trained:
        said = set(words(row.prompt))
        # Short questions share their articles and pronouns.
        assert max(len(said & other) / min(len(said), len(other)) for other in asked) < 0.7
    assert max(len(words(answer)) for row in trained for answer in row.answers) <= 60


@pytest.fixture
def section(write_jsonl) -> DataSection:
    return DataSection(
        forget=write_jsonl(pairs(*(f"forget {i}/x" for i in range(10))), "forget.jsonl"),
        retain=write_jsonl(pairs(*(f"retain {i}/x" for i in range(10))), "retain.jsonl"),
        protect={"shop": write_jsonl(pairs(*(f"shop {i}/x" for i in range(10))), "shop.jsonl")},
    )


def test_what_is_forgotten_or_was_looked_at_is_left_out(section, write_jsonl) -> None:
    data = load_data(section, None)
    texts = [f"{name} {i}" for name in ("FORGET", "retain", "shop") for i in range(10)]
    asked = write_jsonl(pairs(*(f" {text} /y" for text in [*texts, "new"])), "sounds.jsonl")
    unseen = {row.prompt for row in (*data.retain.unseen, *data.protect["shop"].unseen)}
    assert {row.prompt for row in load_lookalikes(asked, data, None)} == {"new"} | unseen


def test_long_ones_are_left_out_whatever_the_recipe_says_of_other_sets(
    section, write_jsonl
) -> None:
    encoder = Encoder(make_byte_level(), template=None, max_prompt_tokens=24, max_answer_tokens=8)
    data = load_data(section, encoder)
    asked = write_jsonl(pairs("short/y", f"{'long ' * 30}/y"), "sounds.jsonl")
    assert [row.prompt for row in load_lookalikes(asked, data, encoder)] == ["short"]


def test_none_left_is_told_with_the_reasons(section, write_jsonl) -> None:
    encoder = Encoder(make_byte_level(), template=None, max_prompt_tokens=24, max_answer_tokens=8)
    data = load_data(section, encoder)
    asked = write_jsonl(pairs("forget 1/y", f"{'long ' * 30}/y"), "sounds.jsonl")
    with pytest.raises(DataError, match=r"none of its 2 prompts can be asked: 1 stand.* and 1 are"):
        load_lookalikes(asked, data, encoder)


def test_a_bad_record_is_told_by_its_own_key(section, write_jsonl) -> None:
    asked = write_jsonl([{"prompt": "p"}], "sounds.jsonl")
    with pytest.raises(DataError, match=r"set evaluation\.lookalikes\.on_bad_record"):
        load_lookalikes(asked, load_data(section, None), None)


def test_a_set_that_is_not_there_is_told(section, tmp_path: Path) -> None:
    gone = SourceSection(path=str(tmp_path / "gone.jsonl"), format="prompt-response")
    with pytest.raises(SourceError, match="no such file") as caught:
        load_lookalikes(gone, load_data(section, None), None)
    assert caught.value.where == f"evaluation.lookalikes.path: {gone.path}"
