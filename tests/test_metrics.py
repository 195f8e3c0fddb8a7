"""Pure scores of texts, each on a case that can be counted by eye."""

import math

import pytest

from lora_sku.metrics import (
    distinct_ngram_share,
    is_blank,
    is_garbled,
    is_looping,
    perplexity,
    rate,
    words,
)


def test_perplexity_of_a_fair_choice_among_eight_is_eight() -> None:
    assert perplexity(math.log(8)) == pytest.approx(8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't panic, Mr. 42!", ["don't", "panic", "mr", "42"]),
        ("it\u2019s snake_case", ["it\u2019s", "snake", "case"]),
        ("--- ... !", []),
        ("Crème brûlée", ["crème", "brûlée"]),
        ("東京 is 大きい", ["東", "京", "is", "大", "き", "い"]),
        ("안녕 abc가", ["안", "녕", "abc", "가"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("tokens", "n", "expected"),
    [
        ("a b c d", 3, 1.0),
        ("a b a b a b", 3, 0.5),  # aba bab aba bab
        ("a a a", 1, 1 / 3),
        ("a b", 3, 1.0),
    ],
)
def test_distinct_ngram_share(tokens: str, n: int, expected: float) -> None:
    assert distinct_ngram_share(tokens.split(), n) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", " \n\t", "...", "---\n***", "\u3002\u3001"])
def test_a_text_without_letter_or_digit_is_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", " 4 ", "...no", "はい"])
def test_one_letter_or_digit_is_not_blank(text: str) -> None:
    assert not is_blank(text)


@pytest.mark.parametrize(
    "text",
    [
        "no no no no",  # four of one word
        "go on and on " * 5,  # twenty words, four trigrams
        "x a x b x c x d x e x f x",  # one word is 7 of 13, all trigrams differ
        "yes no " * 6,  # twelve words are enough to tell
    ],
)
def test_looping(text: str) -> None:
    assert is_looping(text)


@pytest.mark.parametrize(
    "text",
    [
        "no no no",  # three may be emphasis
        "yes no yes no yes no yes no yes no yes",  # eleven words are too few to tell
        "a b c d e f g h a b c d e f",  # a refrain: 8 of 12 trigrams are distinct
        "one two three four five six seven eight nine ten eleven twelve thirteen",
        # half of the words are alike, not more
        "a b a c a d a e a f a g a h",
    ],
)
def test_not_looping(text: str) -> None:
    assert not is_looping(text)


def test_a_short_text_loops_only_if_it_is_one_word() -> None:
    assert not is_looping("very very very very good")


@pytest.mark.parametrize("text", ["a ### ???", "{}[]();x", "z" * 41])
def test_garbled(text: str) -> None:
    assert is_garbled(text)


@pytest.mark.parametrize("text", ["a b !?", "", "z" * 40, "x = y[0]"])
def test_not_garbled(text: str) -> None:
    assert not is_garbled(text)


def test_rate() -> None:
    assert rate([True, False, False, True]) == 0.5
    assert rate([]) == 0.0
