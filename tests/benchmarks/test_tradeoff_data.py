"""What is trained on, chosen by and reported on never shares a prompt."""

from itertools import combinations

import pytest

from benchmarks.tradeoff_data import FACTS, Fact, TradeoffData, cut_data, read_facts
from lora_sku.data import Row
from lora_sku.data.rows import normalised


def rows(name: str, count: int, *more: str) -> list[Row]:
    return [Row(p, (f"Answer of {p}",)) for p in [*more, *(f"{name} {i}?" for i in range(count))]]


@pytest.fixture
def data() -> TradeoffData:
    # Each set also holds prompts of others, in another spelling.
    return cut_data(
        harmful=rows("harm", 40, "Test 3?", "General 1?", "ASKED?"),
        harmful_unseen=rows("test", 20, "general  2?", "Asked?"),
        normal=rows("normal", 60, "HARM 7?", "test 4?", "general 3?", "asked?"),
        general=rows("general", 10, "asked?"),
        facts=(Fact("Asked?", ("yes",)),),
    )


def test_no_prompt_is_in_two_sets(data: TradeoffData) -> None:
    sets = {
        **{f"forget {name}": rows for name, rows in data.forget.named().items()},
        **{f"normal {name}": rows for name, rows in data.normal.named().items()},
        "general validation": data.general.validation,
        "general unseen": data.general.unseen,
    }
    prompts = {name: {normalised(row.prompt) for row in rows} for name, rows in sets.items()}
    prompts["facts"] = {normalised(fact.question) for fact in data.facts}
    assert all(prompts.values())
    for one, other in combinations(prompts, 2):
        assert not prompts[one] & prompts[other], (one, other)


def test_what_two_sets_hold_stays_where_it_is_only_reported_on(data: TradeoffData) -> None:
    assert {row.prompt for row in data.forget.unseen} == {f"test {i}?" for i in range(20)}
    trained = {row.prompt for row in (*data.forget.train, *data.forget.validation)}
    assert trained == {f"harm {i}?" for i in range(40)}
    assert len(data.general.validation) + len(data.general.unseen) == 10
    assert not data.general.train


def test_only_what_is_scored_is_cut(data: TradeoffData) -> None:
    few = data.at_most(validation=2, unseen=3)
    pairs = [(few.forget, data.forget), (few.normal, data.normal), (few.general, data.general)]
    for cut, whole in pairs:
        assert cut.train == whole.train
        assert cut.validation == whole.validation[:2]
        assert cut.unseen == whole.unseen[:3]
    assert few.facts == data.facts


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("The capital of France is Paris.", True),
        ("PARIS!", True),
        ("That is New York City", True),
        ("It is a comparison.", False),
        ("New-York, I think", True),
        ("New houses in York", False),
        ("", False),
    ],
)
def test_a_fact_is_right_with_an_accepted_answer_as_words(answer: str, right: bool) -> None:
    assert Fact("Where?", ("Paris", "New York")).is_right(answer) is right


def test_there_are_fifty_facts_with_distinct_questions() -> None:
    facts = read_facts(FACTS)
    assert len({normalised(fact.question) for fact in facts}) == len(facts) == 50
    for fact in facts:
        assert fact.accepted
        assert all(fact.is_right(accepted) for accepted in fact.accepted)
        assert not fact.is_right(fact.question), fact.question
