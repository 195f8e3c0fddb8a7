"""User errors read as one paragraph."""

import pytest

from lora_sku import errors
from lora_sku.errors import SourceError, SourceUnreachableError, UserError, at_key


def test_the_message_says_where_what_and_what_to_do() -> None:
    error = UserError("r is 0", where="recipe.yaml:3", remedy="Set r to 1 or more.")
    assert str(error) == "recipe.yaml:3: r is 0. Set r to 1 or more."


def test_place_and_remedy_may_be_left_out() -> None:
    assert str(UserError("the disk is full")) == "the disk is full."


@pytest.mark.parametrize("problem", ["unknown key; did you mean r?", "it ends."])
def test_a_problem_that_ends_a_sentence_gets_no_second_stop(problem: str) -> None:
    assert str(UserError(problem, remedy="Look.")) == f"{problem} Look."


def test_every_kind_is_a_user_error() -> None:
    own = [value for value in vars(errors).values() if isinstance(value, type)]
    kinds = [kind for kind in own if kind.__module__ == errors.__name__]
    assert len(kinds) > 5
    assert all(issubclass(kind, UserError) for kind in kinds)


def test_an_unreachable_source_is_caught_as_a_source_error() -> None:
    with pytest.raises(SourceError):
        raise SourceUnreachableError("no network")


@pytest.mark.parametrize(
    ("where", "told"), [("./a.jsonl", "data.forget.path: ./a.jsonl"), (None, "data.forget.path")]
)
def test_a_key_stands_before_the_place(where: str | None, told: str) -> None:
    with pytest.raises(SourceError) as caught, at_key("data.forget.path"):
        raise SourceError("no such file", where=where)
    assert str(caught.value) == f"{told}: no such file."
