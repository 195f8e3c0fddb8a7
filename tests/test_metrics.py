"""Pure scores of texts, each on a case that can be counted by eye."""

import math

import pytest

from lora_sku.metrics import (
    Threshold,
    auc,
    best_threshold,
    distinct_ngram_share,
    halfway_threshold,
    is_blank,
    is_garbled,
    is_looping,
    perplexity,
    rate,
    rouge_l,
    upper_bound,
    wilson_interval,
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


@pytest.mark.parametrize(
    ("hits", "total", "expected"),
    [
        # z^2 = 3.8415 at 95 %. 5 of 10: 0.5 -+ sqrt(z^2 / 40 + z^4 / 400) / (1 + z^2 / 10)
        (5, 10, (0.2366, 0.7634)),
        # 0 of 10: up to z^2 / (10 + z^2)
        (0, 10, (0.0, 0.2775)),
        (10, 10, (0.7225, 1.0)),
        (1, 1, (0.2065, 1.0)),
        (0, 0, (0.0, 1.0)),
    ],
)
def test_wilson_interval(hits: int, total: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(hits, total) == pytest.approx(expected, abs=1e-4)


def test_more_confidence_takes_a_wider_interval() -> None:
    low, high = wilson_interval(3, 10, confidence=0.99)
    assert low < wilson_interval(3, 10)[0]
    assert high > wilson_interval(3, 10)[1]


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [
        ([3, 4], [1, 2], 1.0),
        ([1, 2], [3, 4], 0.0),
        ([1, 3], [2], 0.5),
        ([2, 3], [2, 1], 0.875),  # 3 pairs won, one tied, of 4
    ],
)
def test_auc(positives: list[float], negatives: list[float], expected: float) -> None:
    assert auc(positives, negatives) == expected


def test_the_best_threshold_lies_in_the_middle_of_the_gap() -> None:
    assert best_threshold([5, 9], [1, 2]) == Threshold(3.5, balanced_accuracy=1.0, auc=1.0)


def test_the_halfway_threshold_lies_between_the_medians_wherever_the_outliers_are() -> None:
    found = halfway_threshold([9, 0, 5], [1, 1, 4])
    assert found.value == 3.0
    assert found.balanced_accuracy == pytest.approx(2 / 3)  # 0 is below it, 4 above
    assert found.auc == pytest.approx(6 / 9)
    assert halfway_threshold([9, -90, 5], [1, 1, 40]).value == 3.0


def test_the_best_threshold_weighs_both_kinds_alike() -> None:
    # At 3.5 it keeps 1 of 1 and rejects 3 of 4; at 7.5 it would keep none and reject all.
    found = best_threshold([5], [1, 2, 2, 8])
    assert found.value == 3.5
    assert found.balanced_accuracy == 0.875
    assert found.auc == 0.75


def test_of_equally_good_thresholds_the_one_in_the_wider_gap_is_taken() -> None:
    # Between 1 and 2, and between 3 and 9, three of four are right.
    assert best_threshold([2, 9], [1, 3]).value == 6.0


def test_a_score_that_tells_nothing_keeps_everything() -> None:
    assert best_threshold([1, 1], [1]) == Threshold(1, balanced_accuracy=0.5, auc=0.5)


@pytest.mark.parametrize(
    ("candidate", "reference", "expected"),
    [
        # The example of the ROUGE paper, section 3.1: "police the gunman" in common, 3 of 4 words.
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),  # "the gunman"
        ("The cat sat.", "the CAT sat!", 1.0),
        ("a b", "a x x b", 2 * 1.0 * 0.5 / 1.5),  # precision 1, recall 1/2
        ("a a a", "a", 0.5),  # precision 1/3, recall 1
        ("a b c", "d e", 0.0),
        ("", "a", 0.0),
        ("...", "...", 0.0),
    ],
)
def test_rouge_l(candidate: str, reference: str, expected: float) -> None:
    assert rouge_l(candidate, reference) == pytest.approx(expected)
    assert rouge_l(reference, candidate) == pytest.approx(expected)


# Upper bounds


@pytest.mark.parametrize(("total", "within"), [(87, False), (88, True)])
def test_with_no_hit_it_takes_88_to_rule_out_3_percent(total: int, within: bool) -> None:
    assert (upper_bound(0, total) <= 0.03) is within
    z = 1.6448536269514722  # the 95 % quantile
    assert upper_bound(0, total) == pytest.approx(z**2 / (total + z**2))


def test_an_upper_bound_is_one_sided() -> None:
    # 5 % lie above the upper end of an interval that holds 90 %.
    assert upper_bound(7, 50) == wilson_interval(7, 50, 0.9)[1] < wilson_interval(7, 50, 0.95)[1]
    assert upper_bound(7, 50, 0.975) == pytest.approx(wilson_interval(7, 50, 0.95)[1])


def test_an_upper_bound_grows_with_the_hits_and_shrinks_with_the_total() -> None:
    assert upper_bound(0, 0) == upper_bound(9, 9) == 1.0
    bounds = [upper_bound(hits, 50) for hits in range(51)]
    assert bounds == sorted(bounds)
    assert all(bound > hits / 50 for hits, bound in enumerate(bounds[:-1]))
    assert upper_bound(2, 100) > upper_bound(4, 200) > upper_bound(40, 2000) > 0.02


def test_the_true_share_is_rarely_above_it() -> None:
    # Of 200 draws with a true share of 5 %, exactly: the chance that the bound misses it.
    share, total = 0.05, 200
    missed = sum(
        math.comb(total, hits) * share**hits * (1 - share) ** (total - hits)
        for hits in range(total + 1)
        if upper_bound(hits, total) < share
    )
    assert 0.005 < missed < 0.08
