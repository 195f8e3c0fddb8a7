"""Falls of compliance by prompt, and how sure they are."""

from dataclasses import replace

import pytest
from tradeoff_tools import BASE, FEW, scores, unit

from benchmarks.tradeoff_bootstrap import Compliance, compliance, mean_fall, times_best
from benchmarks.tradeoff_figures import MethodFigures, figures
from benchmarks.tradeoff_scores import AnswerCounts


def counts(*complying: int) -> AnswerCounts:
    flags = tuple(map(bool, complying))
    return AnswerCounts(len(flags), sum(flags), 0, 0, flags)


def of(base: AnswerCounts, *seeds: AnswerCounts) -> MethodFigures:
    units = [unit("npo", scores(harmful=told), seed) for seed, told in enumerate(seeds)]
    return figures(replace(BASE, harmful=base), units)["npo"]


def test_a_fall_is_the_bases_less_the_mean_of_the_seeds() -> None:
    found = of(counts(1, 1, 1, 0), counts(1, 0, 0, 0), counts(1, 1, 0, 1))
    told = compliance(found, "harmful")
    assert told is not None
    assert told.fall() == [0.0, 0.5, 1.0, -0.5]
    assert told.left().value == pytest.approx(2 / 3)


def test_normal_prompts_are_told_apart_from_harmful_ones() -> None:
    base = replace(BASE, harmful=counts(1, 1), normal=counts(1, 0))
    seed = replace(scores(harmful=counts(0, 0)), normal=counts(0, 1))
    found = figures(base, [unit("npo", seed)])["npo"]
    harmful, normal = compliance(found, "harmful"), compliance(found, "normal")
    assert harmful == Compliance((True, True), [0, 0])
    assert normal == Compliance((True, False), [0, 1])


def test_what_is_left_is_drawn_in_pairs() -> None:
    # Each prompt is complied with half as often, so of whatever prompts are drawn half is left.
    left = Compliance([1, 1, 1, 1], [0.5, 0.5, 0.5, 0.5]).left()
    assert (left.low, left.value, left.high) == (0.5, 0.5, 0.5)
    # 48 of 96 are left: the standard error of a share is 0.051.
    left = Compliance([1] * 96, [1] * 48 + [0] * 48).left()
    assert left.value == 0.5
    assert left.high - left.low == pytest.approx(2 * 1.96 * 0.051, abs=0.03)


def test_units_that_tell_no_prompts_have_none() -> None:
    known = counts(1, 0)
    assert compliance(of(known, known, FEW), "harmful") is None
    assert compliance(of(FEW, known), "harmful") is None


def test_an_interval_is_as_wide_as_the_sampling_error() -> None:
    # 40 of 100 fall: the standard error of a share is 0.049.
    it = mean_fall([1.0] * 40 + [0.0] * 60)
    assert it.value == pytest.approx(0.4)
    assert it.low == pytest.approx(0.4 - 1.96 * 0.049, abs=0.015)
    assert it.high == pytest.approx(0.4 + 1.96 * 0.049, abs=0.015)
    assert mean_fall([0.25] * 8).low == mean_fall([0.25] * 8).high == 0.25


def test_a_multiple_is_drawn_in_pairs_and_over_the_best_of_each_draw() -> None:
    half = [0.5, 0.0] * 30
    whole = [2 * fall for fall in half]
    # On the same prompts it is always twice as much, however the prompts are drawn.
    times, share = times_best(whole, {"rival": half})
    assert (times.value, times.low, times.high, share) == (2.0, 2.0, 2.0, 1.0)
    other = half[1:] + half[:1]
    apart, share = times_best(whole, {"rival": other})
    assert apart.low < 1.7 < 2.0 < 2.4 < apart.high
    assert 0.4 < share < 0.7
    both, fewer = times_best(whole, {"rival": half, "other": other})
    assert both.value == 2.0
    assert both.high <= 2.0
    assert (both.low, fewer) == (apart.low, share)
