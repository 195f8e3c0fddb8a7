from collections import Counter

import pytest

from lora_sku.data.rows import Row
from lora_sku.data.sampling import StepSampler
from lora_sku.errors import DataError

FORGET = [Row(f"f{i}", (f"f{i}a", f"f{i}b", "common") if i % 2 else (f"f{i}a",)) for i in range(7)]
RETAIN = [Row(f"r{i}", ("x", "y")) for i in range(5)]


def make(forget=FORGET, retain=RETAIN, per_step=3, responses=4, seed=1):
    return StepSampler(forget, retain, prompts_per_step=per_step, responses=responses, seed=seed)


def test_a_step_has_the_asked_sizes_and_only_existing_pairs():
    draw = make().draw(0)
    assert len(draw.forget) == len(draw.retain) == len(draw.random) == 3
    assert all(len(pairs) == 4 for pairs in draw.random)
    own = {(row.prompt, answer) for row in FORGET + RETAIN for answer in row.answers}
    assert own.issuperset(draw.forget + draw.retain)


def test_a_step_does_not_depend_on_what_was_drawn_before():
    walked = make()
    draws = [walked.draw(step) for step in range(20)]
    assert [make().draw(step) for step in reversed(range(20))] == draws[::-1]


def test_steps_and_seeds_differ():
    assert len({make().draw(step) for step in range(20)}) == 20
    assert make(seed=1).draw(0) != make(seed=2).draw(0)


@pytest.mark.parametrize(("side", "rows"), [("forget", FORGET), ("retain", RETAIN)])
def test_each_prompt_comes_once_an_epoch_in_a_new_order(side, rows):
    sampler = make()
    visits = [prompt for step in range(35) for prompt, _ in getattr(sampler.draw(step), side)]
    epochs = [visits[i : i + len(rows)] for i in range(0, len(visits), len(rows))]
    assert all(sorted(epoch) == [row.prompt for row in rows] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > len(epochs) // 2


def test_a_prompts_answers_take_turns():
    sampler = make()
    pairs = [pair for step in range(14) for pair in sampler.draw(step).forget]  # 6 epochs
    seen = Counter(pair for pair in pairs if pair[0] == "f3")
    assert seen == {("f3", "f3a"): 2, ("f3", "f3b"): 2, ("f3", "common"): 2}


def test_random_answers_are_distinct_and_of_other_prompts_only():
    sampler = make()
    own = {row.prompt: set(row.answers) for row in FORGET}
    for step in range(50):
        draw = sampler.draw(step)
        for (prompt, _), pairs in zip(draw.forget, draw.random, strict=True):
            assert {pair[0] for pair in pairs} == {prompt}
            answers = [answer for _, answer in pairs]
            assert len(set(answers)) == 4
            assert own[prompt].isdisjoint(answers)


def test_every_answer_of_other_prompts_is_drawn_about_equally_often():
    sampler = make(per_step=7)
    drawn = Counter(
        answer
        for step in range(700)
        for pairs in sampler.draw(step).random
        for prompt, answer in pairs
        if prompt == "f0"
    )
    # 4 of the 10 distinct answers besides its own, 700 times: 280 each, deviation about 13.
    assert len(drawn) == 10
    assert all(215 < count < 345 for count in drawn.values())


def test_each_prompt_of_a_step_gets_random_answers_of_its_own():
    forget = [Row("p", ("a",)), Row("q", ("b",)), *(Row(f"o{i}", (f"{i}",)) for i in range(90))]
    draw = make(forget, per_step=2).draw(0)
    first, second = ({answer for _, answer in pairs} for pairs in draw.random)
    assert first != second


def test_the_same_question_in_other_letters_counts_as_the_same_prompt():
    forget = [Row("Hi  there", ("a",)), Row("hi there", ("b",)), Row("other", ("c ", "d"))]
    sampler = make(forget, responses=2, per_step=3)
    for (prompt, _), pairs in zip(sampler.draw(0).forget, sampler.draw(0).random, strict=True):
        answers = {answer for _, answer in pairs}
        assert answers == ({"a", "b"} if prompt == "other" else {"c", "d"})


def test_a_pool_smaller_than_k_is_refused_with_the_recipe_key():
    # The odd prompts own 3 of the 11 distinct answers.
    assert make(responses=8).draw(0)
    with pytest.raises(DataError, match="only 8 distinct") as caught:
        make(responses=9)
    assert caught.value.where == "losses.random_disassociation.responses"


def test_no_random_answers_are_drawn_when_none_are_asked_for():
    assert make([Row("p", ("a",))], responses=0).draw(3).random == ((), (), ())


@pytest.mark.parametrize(
    "wrong", [{"forget": []}, {"retain": []}, {"per_step": 0}, {"responses": -1}]
)
def test_senseless_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=r"no rows|at least"):
        make(**wrong)


def test_more_retain_than_forget_prompts_a_step_walk_the_retain_set_faster():
    retain = [Row(f"r{i}", ("good",)) for i in range(6)]
    sampler = StepSampler(
        [Row(f"f{i}", ("bad",)) for i in range(6)],
        retain,
        prompts_per_step=1,
        retain_prompts_per_step=3,
        responses=0,
        seed=0,
    )
    steps = [sampler.draw(step) for step in range(2)]
    assert [len(draw.forget) for draw in steps] == [1, 1]
    seen = [prompt for draw in steps for prompt, _ in draw.retain]
    assert sorted(seen) == sorted(row.prompt for row in retain)
