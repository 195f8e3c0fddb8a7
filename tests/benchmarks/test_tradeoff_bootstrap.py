"""Falls of compliance by prompt, and how sure they are."""

from dataclasses import replace

import pytest
from tradeoff_tools import BASE, FEW, scores, unit

from benchmarks.tradeoff_bootstrap import fall_by_prompt, mean_fall, times_best
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
    assert fall_by_prompt(found) == [0.0, 0.5, 1.0, -0.5]


def test_units_that_tell_no_prompts_have_none() -> None:
    known = counts(1, 0)
    assert fall_by_prompt(of(known, known, FEW)) is None
    assert fall_by_prompt(of(FEW, known)) is None


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
