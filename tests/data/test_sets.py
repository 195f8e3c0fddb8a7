import random

import pytest
from data_tools import pairs
from pydantic import ValidationError

from lora_sku.data.encoding import Encoder
from lora_sku.data.rows import Row
from lora_sku.data.sets import fingerprint, load_data, screen
from lora_sku.errors import DataError
from lora_sku.recipe import DataSection

FORGET = pairs(*(f"f{i}/bad{i}" for i in range(20)))
RETAIN = pairs(*(f"r{i}/good{i}" for i in range(10)))


@pytest.fixture
def load(write_jsonl):
    def load(
        forget=FORGET,
        retain=RETAIN,
        encoder=None,
        protect=(),
        hard=None,
        safe=None,
        unseen=None,
        **keys,
    ):
        section = DataSection(
            forget_unseen=unseen and write_jsonl(unseen, "unseen.jsonl"),
            hard_negatives=hard and write_jsonl(hard, "hard.jsonl"),
            safe_responses=safe and write_jsonl(safe, "safe.jsonl"),
            protect={
                name: write_jsonl(rows, f"{name}.jsonl") for name, rows in dict(protect).items()
            },
            forget=write_jsonl(forget, "forget.jsonl"),
            retain=write_jsonl(retain, "retain.jsonl"),
            **keys,
        )
        return load_data(section, encoder)

    return load


def test_both_sets_are_loaded_and_split_by_the_recipes_fractions(load):
    data = load()
    sizes = [len(part) for part in (data.forget.train, data.forget.validation, data.forget.unseen)]
    assert sizes == [14, 2, 4]
    assert (len(data.retain.train), len(data.retain.unseen)) == (7, 2)
    assert data.forget_loaded.records == 20
    assert load(validation_fraction=0).forget.validation == ()
    with pytest.raises(ValidationError, match="unseen_fraction"):
        load(unseen_fraction=0)  # there would be nothing to evaluate on


def test_a_prompt_of_both_sets_is_held_back_from_both_or_from_none(load):
    shared = pairs(*(f"f{i}/good{i}" for i in range(10)))
    for seed in range(40):  # without the rule, some seeds break it
        data = load(retain=RETAIN[:3] + shared, seed=seed)
        trained = {row.prompt for row in data.forget.train + data.retain.train}
        held_back = {row.prompt for row in data.forget.unseen + data.retain.unseen}
        assert trained.isdisjoint(held_back)


def test_a_pair_in_both_sets_is_refused_with_its_prompt(load):
    with pytest.raises(DataError, match=r"1 pairs .* prompt 'F3'") as caught:
        load(retain=RETAIN + pairs("F3/bad3"))
    assert "bad3" not in str(caught.value)


def test_a_set_that_is_too_small_is_named(load):
    with pytest.raises(DataError, match="too few") as caught:
        load(retain=RETAIN[:2])
    assert caught.value.where == "data.retain"


def test_the_fingerprint_changes_with_the_data_and_the_splits_only(load):
    fingerprint = load().fingerprint
    shuffled = list(FORGET)
    random.Random(0).shuffle(shuffled)
    assert load(forget=shuffled).fingerprint == fingerprint
    assert load(seed=1).fingerprint != fingerprint
    assert load(retain=RETAIN[:9] + pairs("r9/other")).fingerprint != fingerprint
    assert load(max_prompt_tokens=7).fingerprint == fingerprint


ROWS = [Row("ab ab", ("x",)), Row("ab " * 40 + "end", ("x",)), Row("ab " * 80, ("x",))]


@pytest.fixture
def encoder(byte_level):
    return Encoder(byte_level, template="{prompt}", max_prompt_tokens=30, max_answer_tokens=9)


def test_short_prompts_pass(encoder):
    screened = screen(ROWS[:1], encoder, "fail")
    assert (screened.rows, screened.dropped, screened.truncated) == ((ROWS[0],), 0, 0)


def test_a_long_prompt_fails_with_its_beginning_its_length_and_the_keys(encoder):
    with pytest.raises(DataError) as caught:
        screen(ROWS, encoder, "fail")
    text = str(caught.value)
    assert f"the first has {encoder.prompt_length(ROWS[1].prompt)} and begins 'ab ab" in text
    assert "end" not in text
    assert f"the longest has {encoder.prompt_length(ROWS[2].prompt)}" in text
    assert "2 of 3 prompts" in text
    assert "data.max_prompt_tokens" in text
    assert "data.on_long_prompt" in text


def test_long_prompts_are_dropped_and_counted_when_asked(encoder):
    screened = screen(ROWS, encoder, "skip")
    assert (screened.rows, screened.dropped, screened.truncated) == ((ROWS[0],), 2, 0)


def test_dropping_every_prompt_is_refused(encoder):
    with pytest.raises(DataError, match="2 of 2 prompts"):
        screen(ROWS[1:], encoder, "skip")


def test_long_prompts_are_kept_and_counted_when_they_may_be_cut(encoder):
    screened = screen(ROWS, encoder, "truncate")
    assert (screened.rows, screened.dropped, screened.truncated) == (tuple(ROWS), 0, 2)


LONG = pairs(*(f"ab ab ab ab {'ab ' * 40}{i}/bad{i}" for i in range(5)))
OTHER_LONG = pairs(*(f"ba ba ba ba {'ab ' * 40}{i}/good{i}" for i in range(2)))


def all_prompts(splits):
    return sorted(row.prompt for rows in splits.named().values() for row in rows)


def test_without_an_encoder_no_length_is_looked_at(load):
    data = load(forget=FORGET + LONG)
    assert len(all_prompts(data.forget)) == 25
    assert (data.long_prompts.dropped, data.long_prompts.truncated) == (0, 0)


def test_a_long_prompt_in_either_set_fails_the_loading(load, encoder):
    for sets in ({"forget": FORGET + LONG}, {"retain": RETAIN + LONG}):
        with pytest.raises(DataError, match=r"5 of .* prompts are longer than 30"):
            load(encoder=encoder, **sets)


def test_long_prompts_leave_before_the_split(load, encoder):
    data = load(
        forget=FORGET + LONG, retain=RETAIN + OTHER_LONG, encoder=encoder, on_long_prompt="skip"
    )
    assert (data.long_prompts.dropped, data.long_prompts.truncated) == (7, 0)
    # The very splits of the short prompts alone: sizes and members.
    short = load()
    assert (data.forget, data.retain) == (short.forget, short.retain)
    assert data.fingerprint == short.fingerprint
    assert data.forget_loaded.records == 25


def test_long_prompts_that_are_cut_stay_in_the_splits(load, encoder):
    data = load(
        forget=FORGET + LONG, retain=RETAIN + OTHER_LONG, encoder=encoder, on_long_prompt="truncate"
    )
    assert (data.long_prompts.dropped, data.long_prompts.truncated) == (0, 7)
    assert len(all_prompts(data.forget)) == 25
    assert len(all_prompts(data.retain)) == 12


def test_too_few_short_prompts_are_told_after_the_long_ones_left(load, encoder):
    with pytest.raises(DataError, match="2 different prompts are too few") as caught:
        load(forget=FORGET[:2] + LONG, encoder=encoder, on_long_prompt="skip")
    assert caught.value.where == "data.forget"


def test_protected_sets_are_split_and_never_disturb_the_two(load):
    plain = load()
    shop = pairs(*(f"s{i}/sold{i}" for i in range(10)))
    data = load(protect={"shop": shop, "law": RETAIN})
    assert (data.forget, data.retain) == (plain.forget, plain.retain)
    assert [len(part) for part in data.protect["shop"].named().values()] == [7, 1, 2]
    assert data.protect["law"] == data.retain  # the same prompts follow
    assert list(data.normal) == ["retain", "shop", "law"]
    assert data.protect_loaded["shop"].records == 10
    assert plain.protect == {}
    assert len({plain.fingerprint, data.fingerprint, load(protect={"shop": shop}).fingerprint}) == 3


def test_a_prompt_stands_on_one_side_of_all_sets(load):
    own = pairs(*(f"s{i}/sold{i}" for i in range(9)))
    shop = own + pairs(*(f"f{i}/sold{i}" for i in range(6)), *(f"r{i}/sold{i}" for i in range(6)))
    law = shop[6:15] + pairs(*(f"x{i}/y" for i in range(9)))
    for seed in range(20):
        data = load(protect={"shop": shop, "law": law}, seed=seed)
        split_of = {}
        for splits in (data.forget, *data.normal.values()):
            for name, rows in splits.named().items():
                for row in rows:
                    assert split_of.setdefault(row.prompt, name) == name


def test_a_protected_set_is_named_in_what_is_wrong_with_it(load, encoder):
    with pytest.raises(DataError, match=r"1 pairs .* in the protect.shop set") as caught:
        load(protect={"shop": pairs(*(f"s{i}/x" for i in range(9)), "f3/bad3")})
    assert caught.value.where == "data.protect.shop"
    with pytest.raises(DataError, match="too few") as caught:
        load(protect={"shop": pairs("a/x", "b/y")})
    assert caught.value.where == "data.protect.shop"
    with pytest.raises(DataError, match=r"data\.protect\.shop\.on_bad_record"):
        load(protect={"shop": [{"prompt": "a"}]})
    with pytest.raises(DataError, match="5 of"):
        load(protect={"shop": RETAIN + LONG}, encoder=encoder)


HARD = pairs(*(f"h{i}/fine{i}" for i in range(10)))


def test_hard_negatives_are_a_protected_set(load):
    shop = pairs(*(f"s{i}/sold{i}" for i in range(10)))
    plain, data = load(protect={"shop": shop}), load(protect={"shop": shop}, hard=HARD)
    assert list(data.normal) == ["retain", "shop", "hard_negatives"]
    assert (data.forget, data.retain) == (plain.forget, plain.retain)
    assert data.protect["shop"] == plain.protect["shop"]
    hard = data.protect["hard_negatives"]
    assert [len(part) for part in hard.named().values()] == [7, 1, 2]
    assert data.protect_loaded["hard_negatives"].records == 10
    assert data.fingerprint == fingerprint(data) != plain.fingerprint
    other = load(protect={"shop": shop}, hard=[*HARD[:9], *pairs("h9/other")])
    assert other.fingerprint != data.fingerprint


def test_hard_negatives_are_named_in_what_is_wrong_with_them(load):
    for wrong in (pairs("a/x", "b/y"), [*HARD, *pairs("f3/bad3")]):
        with pytest.raises(DataError) as caught:
            load(hard=wrong)
        assert caught.value.where == "data.hard_negatives"
    with pytest.raises(DataError, match=r"data\.hard_negatives\.on_bad_record"):
        load(hard=[{"prompt": "a"}])


def test_safe_responses_are_kept_by_prompt_and_split_nothing(load):
    plain = load()
    data = load(safe=pairs("F3 /ask a doctor", "f3/rest", "new/no"))
    assert data.safe_responses == {"f3": ("ask a doctor", "rest"), "new": ("no",)}
    assert plain.safe_responses == {}
    assert (data.forget, data.retain, data.normal) == (plain.forget, plain.retain, plain.normal)
    assert data.fingerprint == fingerprint(data)
    assert len({plain.fingerprint, data.fingerprint, load(safe=pairs("f3/no")).fingerprint}) == 3
    with pytest.raises(DataError, match=r"data\.safe_responses\.on_bad_record"):
        load(safe=[{"prompt": "a"}])


def test_safe_responses_of_a_preference_set_are_its_safe_answers(load, write_jsonl):
    record = {
        "prompt": "f3",
        "response_0": "bad",
        "response_1": "kind",
        "is_response_0_safe": False,
        "is_response_1_safe": True,
    }
    section = DataSection(
        forget=write_jsonl(FORGET, "forget.jsonl"),
        retain=write_jsonl(RETAIN, "retain.jsonl"),
        safe_responses=write_jsonl([record], "safe.jsonl", format="pku-saferlhf"),
    )
    assert load_data(section, None).safe_responses == {"f3": ("kind",)}


UNSEEN = pairs(*(f"u{i}/worse{i}" for i in range(3)))


def test_an_unseen_split_of_its_own_leaves_the_forget_set_to_training_and_validation(load):
    data = load(unseen=UNSEEN)
    assert {row.prompt for row in data.forget.unseen} == {"u0", "u1", "u2"}
    assert (len(data.forget.train), len(data.forget.validation)) == (18, 2)
    assert (len(data.retain.train), len(data.retain.unseen)) == (7, 2)  # by their shares, as ever
    assert data.forget_loaded.records == 20
    prints = {load().fingerprint, data.fingerprint, load(unseen=UNSEEN[:2]).fingerprint}
    assert len(prints) == 3


def test_what_its_own_unseen_split_holds_back_is_trained_on_nowhere(load):
    # A harmful prompt that the forget set has too, and one that is asked normally as well.
    unseen = UNSEEN + pairs("F3 /worse", "r2/bad")
    for seed in range(10):
        data = load(unseen=unseen, seed=seed)
        assert {row.prompt for row in data.forget.unseen} == {"u0", "u1", "u2", "F3", "r2"}
        trained = {row.prompt for row in (*data.forget.train, *data.forget.validation)}
        assert "f3" not in trained
        assert len(trained) == 19
        assert "r2" in {row.prompt for row in data.retain.unseen}


def test_an_unseen_split_of_its_own_is_screened_and_told_by_its_key(load, encoder):
    with pytest.raises(DataError, match="5 of 8 prompts are longer than 30"):
        load(unseen=UNSEEN + LONG, encoder=encoder)
    kept = load(unseen=UNSEEN + LONG, encoder=encoder, on_long_prompt="skip")
    assert len(kept.forget.unseen) == 3
    with pytest.raises(DataError, match=r"data\.forget_unseen\.on_bad_record"):
        load(unseen=[{"prompt": "a"}])
