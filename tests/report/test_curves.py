"""Loss curves and the trade-off."""

from report_tools import sweep

from lora_sku.report.curves import curve_of, loss_figures, smoothed, tradeoff_figure
from lora_sku.report.records import Step, SweepRecord

SWEEP = SweepRecord.model_validate(sweep())


def steps(count: int) -> list[Step]:
    return [
        Step(
            step=n,
            guided_distortion=float(n),
            random_disassociation=None,
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
    assert [x for x, _ in curve_of(SWEEP)] == [1.0, 1.03, 1.04, 1.08, 1e9]


def test_useless_strengths_do_not_flatten_the_figure_and_are_counted() -> None:
    figure = tradeoff_figure(SWEEP)
    assert "2 points lie beyond" in figure.caption
    assert figure.svg.count('class="mark"') == 1
    assert figure.svg.count('class="budget"') == 1
