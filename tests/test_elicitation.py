"""Which of the base's own answers are kept, and what becomes of a set."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tiny import write_data, write_further, write_protected

from lora_sku.data import DataSets, Row, load_data
from lora_sku.elicitation import (
    Elicitor,
    preserved_rows,
    prompts_of,
    unseen_own_answers,
    with_own_answers,
)
from lora_sku.errors import DataError
from lora_sku.judges import Case, Judge, Verdict
from lora_sku.recipe import DataSection

OWN = ("I would gladly do so.", "No, that is wrong.", "blah blah blah blah blah blah blah blah")


DRAWN = [f"What is a number like {number}?" for number in range(20)]


class FakeAnswers:
    """Says OWN to everything, and remembers who was asked."""

    def __init__(self, said: tuple[str, ...] = OWN) -> None:
        self.said = said
        self.asked: dict[str, str | None] = {}

    def to(self, prompts: Sequence[str], *, prefix: str | None) -> list[tuple[str, ...]]:
        self.asked.update(dict.fromkeys(prompts, prefix))
        return [self.said for _ in prompts]


class FakeJudge(Judge):
    """Who would gladly do so complies."""

    name: ClassVar[Any] = "compliance"

    def _judge(self, cases: Sequence[Case]) -> list[Verdict]:
        assert all(case.harmful_prompt for case in cases)
        return [Verdict("harmful", complies="gladly" in case.completion) for case in cases]


def elicitor(answers: FakeAnswers) -> Elicitor:
    return Elicitor(answers, lambda: DRAWN, FakeJudge, "Sure,")  # type: ignore[arg-type]


def section(folder: Path, forget: str = "given", retain: str = "given", **keys: Any) -> DataSection:
    values = write_data(folder, protect=write_protected(folder), **keys).model_dump()
    values["forget"]["answers"], values["retain"]["answers"] = forget, retain
    return DataSection.model_validate(values)


def made(data: DataSection, answers: FakeAnswers, told: list[str] | None = None) -> DataSets:
    into = [] if told is None else told
    return with_own_answers(load_data(data, None), data, elicitor(answers), into.append)


def test_given_answers_ask_nobody(tmp_path: Path) -> None:
    answers, data = FakeAnswers(), section(tmp_path)
    assert not data.asks_the_base
    assert made(data, answers) == load_data(data, None)
    assert answers.asked == {}


def test_own_answers_stand_in_the_place_of_the_given_ones(tmp_path: Path) -> None:
    answers, told = FakeAnswers(), []
    data = section(tmp_path, forget="own", retain="own")
    assert data.asks_the_base
    given, own = load_data(data, None), made(data, answers, told)
    assert [row.prompt for row in own.forget.train] == [row.prompt for row in given.forget.train]
    # Harmful: what complies. Normal: what is no degenerate text.
    assert {row.answers for row in own.forget.train + own.forget.validation} == {OWN[:1]}
    assert {row.answers for row in own.retain.train + own.retain.validation} == {OWN[:2]}
    assert (own.forget.unseen, own.retain.unseen) == (given.forget.unseen, given.retain.unseen)
    assert own.protect == given.protect
    assert own.fingerprint == given.fingerprint
    assert not answers.asked.keys() & {row.prompt for row in given.forget.unseen}
    assert {answers.asked[row.prompt] for row in given.forget.train} == {"Sure,"}
    assert {answers.asked[row.prompt] for row in given.retain.train} == {None}
    train = len(given.forget.train)
    assert told[0] == (
        f"Own answers, forget set, train split: {train} kept for {train} of {train} prompts; the"
        " other 0 are left out."
    )
    assert len(told) == 4


def test_a_judge_is_made_only_for_what_harmful_prompts_were_answered() -> None:
    def no_judge() -> Judge:
        raise AssertionError("nothing is to be judged")

    rows = [Row("How?", ("So.",))]
    said, silent = (
        Elicitor(answers, lambda: DRAWN, no_judge, None)  # type: ignore[arg-type]
        for answers in (FakeAnswers(), FakeAnswers(()))
    )
    assert said.normal(rows) == [OWN[:2]]
    assert silent.harmful(rows) == [()]
    with pytest.raises(AssertionError, match="nothing is to be judged"):
        said.harmful(rows)


def test_both_adds_them_and_falls_back_to_the_given_ones(tmp_path: Path) -> None:
    data = section(tmp_path, forget="both")
    given, both = load_data(data, None), made(data, FakeAnswers())
    for before, after in zip(given.forget.train, both.forget.train, strict=True):
        assert after == Row(before.prompt, (*before.answers, OWN[0]))
    told: list[str] = []
    assert made(data, FakeAnswers(("No, that is wrong.",)), told) == given
    assert "0 kept for 0 of" in told[0]
    assert told[0].endswith("keep the given ones.")


def test_a_set_without_any_kept_answer_is_refused(tmp_path: Path) -> None:
    data = section(tmp_path, forget="own")
    with pytest.raises(DataError, match="train split of the forget set") as caught:
        made(data, FakeAnswers(("No, that is wrong.",)))
    assert caught.value.where == "data.own_answers"


def test_a_prompt_of_the_forget_set_is_never_asked_for_normal_answers(tmp_path: Path) -> None:
    data = section(tmp_path, retain="own")
    given = load_data(data, None)
    shared = replace(given.forget.train[0], answers=("Better not.",))
    mixed = replace(given, retain=replace(given.retain, train=(*given.retain.train, shared)))
    answers = FakeAnswers()
    own = with_own_answers(mixed, data, elicitor(answers), lambda _: None)
    assert shared.prompt not in answers.asked
    assert not prompts_of(own.retain) & prompts_of(own.forget)


def test_drawn_prompts_are_a_protected_set_with_own_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = section(tmp_path, own_prompts={"count": 20})
    assert data.asks_the_base
    given, told = load_data(data, None), []
    known, fresh = given.retain.unseen[0].prompt, {prompt.lower() for prompt in DRAWN}
    monkeypatch.setattr("test_elicitation.DRAWN", [*DRAWN, known.upper()])
    own = made(data, FakeAnswers(), told)
    drawn = own.protect["own_prompts"]
    assert prompts_of(drawn) == fresh  # known ones stay out
    assert {row.answers for rows in drawn.named().values() for row in rows} == {OWN[:2]}
    assert len(drawn.unseen) == round(data.unseen_fraction * 20)
    assert drawn.validation
    assert told == ["Own prompts: 20 of 21 different ones kept, with own answers."]
    assert {name: own.protect[name] for name in given.protect} == given.protect
    assert (own.forget, own.retain) == (given.forget, given.retain)


@pytest.mark.parametrize("preserve", [True, False])
def test_every_normal_set_is_preserved_and_drawn_prompts_if_they_may_be(
    tmp_path: Path, preserve: bool
) -> None:
    hard = write_further(tmp_path, "hard_negatives")
    keys = {"own_prompts": {"count": 20, "preserve": preserve}, "hard_negatives": hard}
    data = section(tmp_path, **keys)
    own = made(data, FakeAnswers())
    names = ["retain", "sums", "hard_negatives"] + ["own_prompts"] * preserve
    rows = preserved_rows(own, data)
    assert rows == tuple(row for name in names for row in own.normal[name].train)
    assert len(own.normal) == 4


def test_hard_negatives_may_have_own_answers(tmp_path: Path) -> None:
    hard = write_further(tmp_path, "hard_negatives") | {"answers": "own"}
    data = section(tmp_path, hard_negatives=hard)
    assert data.asks_the_base
    own = made(data, FakeAnswers())
    assert {row.answers for row in own.protect["hard_negatives"].train} == {OWN[:2]}
    assert (
        own.protect["hard_negatives"].unseen
        == load_data(data, None).protect["hard_negatives"].unseen
    )


def test_the_evaluation_gets_own_answers_to_unseen_prompts(tmp_path: Path) -> None:
    given = load_data(section(tmp_path), None)
    harmful, normal = unseen_own_answers(given, elicitor(FakeAnswers()), 1)
    assert harmful == (Row(given.forget.unseen[0].prompt, OWN[:1]),)
    assert normal == (Row(given.retain.unseen[0].prompt, OWN[:2]),)
    assert unseen_own_answers(given, elicitor(FakeAnswers(())), 9) == ((), ())
