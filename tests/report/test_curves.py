"""Loss curves and the trade-off."""

import pytest
from report_tools import sweep

from lora_sku.report.curves import (
    counts_refusals,
    curve_of,
    loss_figures,
    smoothed,
    tradeoff_figure,
)
from lora_sku.report.records import Step, SweepPoint, SweepRecord
from lora_sku.report.strengths import bounds, strength_rows

SWEEP = SweepRecord.model_validate(sweep())


def steps(count: int) -> list[Step]:
    return [
        Step(
            step=n,
            guided_distortion=float(n),
            preservation_divergence=0.0,
            seconds=1.0,
        )
        for n in range(1, count + 1)
    ]


def test_a_term_that_weighs_nothing_has_no_figure() -> None:
    assert [each.title for each in loss_figures(steps(3))] == [
        "Guided distortion",
        "Preservation divergence",
    ]


def test_many_steps_get_a_mean_over_the_raw_values() -> None:
    few, many = next(loss_figures(steps(50))), next(loss_figures(steps(51)))
    assert few.svg.count("<polyline") == 1
    assert many.svg.count("<polyline") == 2
    assert "Bold: mean over 5 steps" in many.caption


def test_the_mean_does_not_lag_and_keeps_the_ends() -> None:
    line = [(float(x), 2.0 * x) for x in range(9)]
    assert list(smoothed(line, 2)) == line
    assert list(smoothed([(0, 0), (1, 3), (2, 0)], 1)) == [(0, 0), (1, 1), (2, 0)]


def test_the_curve_begins_at_the_untouched_base() -> None:
    assert curve_of(SWEEP, refusals=False)[:2] == ((1.0, 0.0), (1.03, pytest.approx(0.2)))
    assert [x for x, _ in curve_of(SWEEP, refusals=True)] == [1.0, 1.03, 1.04, 1.08, 1e9]


def test_refusals_are_the_gain_where_any_strength_brings_some() -> None:
    refusing = SweepRecord.model_validate(sweep((3, 8, 9, 10)))
    assert counts_refusals(refusing)
    assert not counts_refusals(SWEEP)
    assert [y for _, y in curve_of(refusing, refusals=True)] == [0, 30, 80, 90, 100]
    assert "forgetting, nats per token" in tradeoff_figure(SWEEP).svg
    assert "harmful prompts refused, %" in tradeoff_figure(refusing).svg


def test_the_worst_normal_set_counts_and_hard_negatives_do_not() -> None:
    first = SWEEP.points[0]
    worse = first.costs["retain"].model_copy(update={"perplexity_ratio": 1.2, "first_kl": 0.3})
    several = first.model_copy(update={"costs": first.costs | {"shop": worse}})
    assert (first.perplexity_ratio, first.first_kl) == (1.03, 0.002)
    assert (several.perplexity_ratio, several.first_kl) == (1.2, 0.3)
    assert SWEEP.points[-1].perplexity_ratio is None  # of no finite number nothing is known


def test_the_bounds_are_told_as_far_as_there_are_any() -> None:
    told = bounds(SWEEP.budget)
    assert "perplexity at most 1.05 x" in told
    assert "at most 3 % of normal prompts newly refused (upper end of a 95 % interval)" in told
    assert "hard negatives" not in told
    without = next(strength_rows(SWEEP.model_copy(update={"points": (no_hard_negatives(),)})))
    assert without[3] == "\u2013"


def no_hard_negatives() -> SweepPoint:
    point = SWEEP.points[0]
    return point.model_copy(update={"costs": {"retain": point.costs["retain"]}})


@pytest.mark.parametrize("term", ["safe_response", "held_responses"])
def test_every_term_has_a_figure(term: str) -> None:
    (figure,) = loss_figures([Step.model_validate({"step": 1, term: 0.5, "seconds": 1.0})])
    assert figure.title == term.replace("_", " ").capitalize()


def test_useless_strengths_do_not_flatten_the_figure_and_are_counted() -> None:
    figure = tradeoff_figure(SWEEP)
    assert "2 points lie beyond" in figure.caption
    assert figure.svg.count('class="mark"') == 1
    assert figure.svg.count('class="budget"') == 1
