import random

import pytest
from data_tools import pairs

from lora_sku.data.rows import Row, hash_order, load_rows
from lora_sku.errors import DataError


def test_pairs_are_grouped_by_prompt_in_order_of_appearance(write_jsonl):
    loaded = load_rows(write_jsonl(pairs("q/b", "p/x", " q /a", "q/b ", "p/y")), "forget")
    assert loaded.rows == (Row("q", ("b", "a")), Row("p", ("x", "y")))
    assert (loaded.records, loaded.duplicate_pairs, loaded.pairs) == (5, 1, 4)
    assert loaded.skipped == ()


def test_a_bad_record_fails_with_its_place_and_the_way_out(write_jsonl):
    section = write_jsonl([*pairs("p/a"), {"prompt": "q", "response": ""}])
    with pytest.raises(DataError) as caught:
        load_rows(section, "retain")
    assert caught.value.where == f"{section.path}:2"
    assert caught.value.problem == "response is blank"
    assert "data.retain.on_bad_record" in str(caught.value)


def test_bad_records_are_skipped_and_told_when_asked(write_jsonl):
    section = write_jsonl([{}, *pairs("p/a")], on_bad_record="skip")
    with open(section.path, "a") as file:
        file.write("{broken\n")
    loaded = load_rows(section, "forget")
    assert loaded.rows == (Row("p", ("a",)),)
    assert loaded.records == 3
    first, second = loaded.skipped
    assert first == f"{section.path}:1: no column 'prompt' among none"
    assert second.startswith(f"{section.path}:3: not valid JSON")


@pytest.mark.parametrize(
    ("records", "keys", "problem"),
    [
        ([], {}, "holds no records"),
        ([{}], {"on_bad_record": "skip"}, "1 of 1 were skipped"),
        (
            [
                {
                    "prompt": "p",
                    "response_0": "a",
                    "response_1": "b",
                    "is_response_0_safe": True,
                    "is_response_1_safe": True,
                }
            ],
            {"format": "pku-saferlhf"},
            "none of its 1 records has an answer for the forget side",
        ),
    ],
)
def test_a_set_without_a_usable_pair_is_refused(write_jsonl, records, keys, problem):
    with pytest.raises(DataError, match=problem):
        load_rows(write_jsonl(records, **keys), "forget")


def test_columns_must_rename_fields_of_the_format(write_jsonl):
    section = write_jsonl(pairs("p/a"), columns={"promt": "prompt"})
    with pytest.raises(DataError, match=r"no field 'promt'.*prompt, response"):
        load_rows(section, "forget")


def test_columns_are_applied(write_jsonl):
    section = write_jsonl([{"q": "p", "a": "x"}], columns={"prompt": "q", "response": "a"})
    assert load_rows(section, "forget").rows == (Row("p", ("x",)),)


def test_max_prompts_keeps_the_same_prompts_whatever_the_order_of_the_file(write_jsonl):
    records = pairs(*(f"{i}/a" for i in range(50)))
    kept = load_rows(write_jsonl(records, max_prompts=10), "forget").rows
    random.Random(0).shuffle(records)
    shuffled = load_rows(write_jsonl(records, max_prompts=10), "forget").rows
    assert len(kept) == 10
    assert set(kept) == set(shuffled)
    assert [row.prompt for row in kept] != [str(i) for i in range(10)]


def test_max_prompts_keeps_prompts_with_all_their_answers(write_jsonl):
    section = write_jsonl(pairs("p/a", "q/a", "p/b", "q/b"), max_prompts=1)
    (row,) = load_rows(section, "forget").rows
    assert row.answers == ("a", "b")


def test_hash_order_ignores_case_and_white_space_but_not_the_label():
    assert hash_order("x", "Straße  a\n") == hash_order("x", "STRASSE a")
    assert hash_order("x", "a") != hash_order("y", "a")
    assert hash_order("x", "a") != hash_order("x", "b")
