from collections import Counter

import pytest

from lora_sku.data.rows import Row
from lora_sku.data.sampling import OPENINGS, SafeResponses, StepSampler
from lora_sku.errors import DataError

FORGET = [Row(f"f{i}", (f"f{i}a", f"f{i}b", "common") if i % 2 else (f"f{i}a",)) for i in range(7)]
NORMAL = [Row(f"r{i}", ("x", "y")) for i in range(5)]
SAFE = SafeResponses(("no", "never", "not me"), {"f2": ("ask a doctor",), "f4": ("rest", "wait")})


def make(forget=FORGET, normal=NORMAL, per_step=3, responses=4, seed=1, **keys):
    return StepSampler(
        forget, normal, prompts_per_step=per_step, responses=responses, seed=seed, **keys
    )


def test_a_step_has_the_asked_sizes_and_only_existing_pairs():
    draw = make().draw(0)
    assert len(draw.forget) == len(draw.normal) == len(draw.random) == 3
    assert all(len(pairs) == 4 for pairs in draw.random)
    own = {(row.prompt, answer) for row in FORGET + NORMAL for answer in row.answers}
    assert own.issuperset(draw.forget + draw.normal)


@pytest.mark.parametrize("safe", [None, SAFE])
def test_a_step_does_not_depend_on_what_was_drawn_before(safe):
    walked = make(safe=safe)
    draws = [walked.draw(step) for step in range(20)]
    assert [make(safe=safe).draw(step) for step in reversed(range(20))] == draws[::-1]


def test_steps_and_seeds_differ():
    assert len({make().draw(step) for step in range(20)}) == 20
    assert make(seed=1).draw(0) != make(seed=2).draw(0)


@pytest.mark.parametrize(("side", "rows"), [("forget", FORGET), ("normal", NORMAL)])
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
    "wrong", [{"forget": []}, {"normal": []}, {"per_step": 0}, {"responses": -1}]
)
def test_senseless_arguments_are_refused(wrong):
    with pytest.raises(ValueError, match=r"no rows|at least"):
        make(**wrong)


def test_more_normal_than_forget_prompts_a_step_walk_the_normal_rows_faster():
    normal = [Row(f"r{i}", ("good",)) for i in range(6)]
    sampler = make(normal=normal, per_step=1, normal_prompts_per_step=3, safe=SAFE)
    steps = [sampler.draw(step) for step in range(2)]
    assert [len(draw.forget) for draw in steps] == [1, 1]
    assert [len(draw.held) for draw in steps] == [3, 3]
    seen = [prompt for draw in steps for prompt, _ in draw.normal]
    assert sorted(seen) == sorted(row.prompt for row in normal)


# Safe responses


def test_every_forget_prompt_gets_a_safe_response_of_its_own_or_of_the_list():
    sampler = make(safe=SAFE)
    said = {}
    for step in range(60):
        draw = sampler.draw(step)
        assert [prompt for prompt, _ in draw.safe] == [prompt for prompt, _ in draw.forget]
        for prompt, answer in draw.safe:
            said.setdefault(prompt, set()).add(answer)
    assert said.pop("f2") == {"ask a doctor"}
    assert said.pop("f4") == {"rest", "wait"}
    assert said == {prompt: set(SAFE.answers) for prompt in ("f0", "f1", "f3", "f5", "f6")}


def test_every_normal_prompt_gets_any_of_all_safe_responses():
    sampler = make(safe=SAFE)
    said = {}
    for step in range(120):
        draw = sampler.draw(step)
        assert [prompt for prompt, _ in draw.held] == [prompt for prompt, _ in draw.normal]
        for prompt, answer in draw.held:
            said.setdefault(prompt, set()).add(answer)
    every = {"no", "never", "not me", "ask a doctor", "rest", "wait"}
    assert said == {row.prompt: every for row in NORMAL}


def test_a_normal_prompt_is_held_against_all_even_where_it_has_some_of_its_own():
    rows = [Row("f2", ("x",)), Row("f4", ("x",))]
    sampler = make(normal=rows, safe=SAFE)
    held = {answer for step in range(60) for _, answer in sampler.draw(step).held}
    assert "no" in held
    assert "rest" in held


def test_a_prompts_own_responses_are_found_however_it_is_written():
    rows = [Row("  F2 ", ("bad",)), *(Row(f"o{i}", (f"{i}",)) for i in range(9))]
    sampler = make(rows, safe=SAFE)
    said = {answer for s in range(20) for prompt, answer in sampler.draw(s).safe if "F2" in prompt}
    assert said == {"ask a doctor"}


def test_all_safe_responses_are_each_there_once_in_a_fixed_order():
    safe = SafeResponses(("no", "never"), {"a": ("never", "wait"), "b": ("wait", "rest")})
    assert safe.all == SafeResponses(("no", "never", "wait", "rest"))


def test_safe_responses_leave_what_else_is_drawn_as_it_was():
    without, with_safe = make(), make(safe=SAFE)
    other = make(safe=SafeResponses(("another",)))
    for step in range(20):
        plain = without.draw(step)
        assert (plain.safe, plain.held) == ((), ())
        for draw in (with_safe.draw(step), other.draw(step)):
            assert (draw.forget, draw.random, draw.normal) == (
                plain.forget,
                plain.random,
                plain.normal,
            )


def test_the_seed_and_the_visit_alone_decide_a_response():
    # The same visits, cut into steps otherwise: each prompt of the walk keeps its response.
    def walked(per_step, kind, seed=1):
        sampler = make(per_step=per_step, normal_prompts_per_step=per_step, safe=SAFE, seed=seed)
        return [
            pair for step in range(60 // per_step) for pair in getattr(sampler.draw(step), kind)
        ]

    for kind in ("safe", "held"):
        assert walked(1, kind) == walked(3, kind) == walked(20, kind)
        assert walked(3, kind) != walked(3, kind, seed=2)
    # Held draws are not the safe ones once more.
    sampler = make(safe=SafeResponses(tuple("abcdefgh")))
    draws = [sampler.draw(step) for step in range(10)]
    assert [a for d in draws for _, a in d.safe] != [a for d in draws for _, a in d.held]


# Responses to answers that have begun

SPOKEN = [Row(f"f{i}", (" ".join(f"w{i}{n}" for n in range(20)), f"short{i}")) for i in range(7)]


def responses(kind, begun, **keys):
    """(draw, what was drawn of that kind with its pair) of many steps."""
    sampler = make(SPOKEN, SPOKEN, safe=SAFE, begun=begun, **keys)
    draws = [sampler.draw(step) for step in range(200)]
    owners = {"safe": "forget", "held": "normal"}[kind]
    return [
        (response, pair)
        for draw in draws
        for response, pair in zip(getattr(draw, kind), getattr(draw, owners), strict=True)
    ]


@pytest.mark.parametrize("kind", ["safe", "held"])
def test_a_share_of_responses_follows_an_opening_or_the_first_words_of_the_drawn_answer(kind):
    found = responses(kind, 0.25)
    begun = [(response, pair) for response, pair in found if len(response) == 3]
    assert 0.17 < len(begun) / len(found) < 0.33
    lengths, openings = Counter(), Counter()
    for (prompt, _, words), (asked, answer) in begun:
        assert prompt == asked
        if words in OPENINGS:
            openings[words] += 1
            continue
        assert answer.split()[: len(words.split())] == words.split() != []
        lengths[len(words.split())] += 1
    assert lengths.keys() == set(range(1, 9))
    assert openings.keys() == set(OPENINGS)
    assert 0.3 < openings.total() / len(begun) < 0.7
    assert any(answer.startswith("short") for _, (_, answer) in begun)


@pytest.mark.parametrize("kind", ["safe", "held"])
def test_beginnings_change_no_response(kind):
    without, some = responses(kind, 0.0), responses(kind, 0.5)
    assert all(len(response) == 2 for response, _ in without)
    assert [(r[:2], pair) for r, pair in some] == without
