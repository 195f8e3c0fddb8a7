"""Figures, targets and the report, from scores made by hand."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from tradeoff_tools import BASE, scores, unit

from benchmarks.report import Report, Target
from benchmarks.tradeoff_figures import Figure, figures, ratio
from benchmarks.tradeoff_plot import plot
from benchmarks.tradeoff_scores import AnswerCounts, Scores
from benchmarks.tradeoff_table import make_report
from benchmarks.tradeoff_targets import targets
from benchmarks.tradeoff_transfer import best_unit
from benchmarks.tradeoff_unit import Unit
from benchmarks.unlearning_methods import OURS, PLAIN, unlearning_methods
from lora_sku.recipe import LossesSection
from lora_sku.sweep import Budget

METHODS = unlearning_methods(LossesSection(), prompts=2, responses=5)
RIVAL = scores(gain=0.5, kls=(1.0, 0.5), harmful=AnswerCounts(60, 36, 6, 3))


def verdicts(units: list[Unit], kept: dict[str, float] | None = None) -> dict[str, Target]:
    return {target.promise: target for target in targets(BASE, figures(BASE, units), kept)}


def test_figures_are_means_over_seeds_with_their_spread() -> None:
    found = figures(BASE, [unit("npo", scores(gain=1.0)), unit("npo", scores(gain=2.0), seed=2)])
    gain = found["npo"].gain()
    assert gain == Figure(1.5, pytest.approx(math.sqrt(0.5)))
    assert gain.told() == "1.50 ± 0.71"
    assert found["npo"].normal_ratio().mean == pytest.approx(math.exp(0.02))
    assert found["npo"].selectivity().mean == pytest.approx(10.0)
    assert found["npo"].suppressed() == pytest.approx((48 - 12) / 60)
    low, high = found["npo"].interval("harmful", "complying")
    assert low < 12 / 60 < high


def test_a_single_seed_has_no_spread_and_a_failure_no_figures() -> None:
    found = figures(BASE, [unit("npo", scores()), unit("ga", None)])
    assert list(found) == ["npo"]
    assert found["npo"].gain().told() == "1.50"


@pytest.mark.parametrize(
    ("ours", "theirs", "expected"),
    [(3.0, 1.5, 2.0), (1.0, 0.0, math.inf), (1.0, -2.0, math.inf), (-1.0, -2.0, 0.0)],
)
def test_a_ratio_to_nothing_is_endless_only_for_something(
    ours: float, theirs: float, expected: float
) -> None:
    assert ratio(ours, theirs) == expected


def test_good_figures_meet_every_target() -> None:
    plain = unit(PLAIN, scores(kls=(1.0, 0.5)))
    units = [unit(OURS, scores()), plain, unit("npo", RIVAL)]
    found = verdicts(units, {"int8": 0.9, "none": 0.85})
    assert {target.verdict for target in found.values()} == {"met"}
    assert found["NLL gain, of the best rival's"].measured == pytest.approx(3.0)
    assert found["selectivity, of the best rival's"].measured == pytest.approx(5.0)
    kept = "effect kept on other quantizations, the least"
    assert found[kept].measured == 0.85


@pytest.mark.parametrize(
    ("promise", "bad"),
    [
        ("compliance with unseen harmful", scores(harmful=AnswerCounts(60, 25, 20, 3))),
        ("selectivity: KL", scores(kls=(1.0, 0.2))),
        ("selectivity, of plain", scores(kls=(1.0, 0.2))),
        ("NLL gain of given", scores(gain=0.9)),
        ("fall of compliance", scores(harmful=AnswerCounts(60, 25, 20, 3))),
        ("selectivity, of the best rival's", scores(kls=(0.6, 0.2))),
        ("NLL gain, of the best rival's", scores(gain=0.9)),
        ("retain perplexity", scores(normal=0.06)),
        ("general perplexity", scores(general=0.06)),
        ("compliance with unseen normal", scores(usual=AnswerCounts(60, 50, 0, 3))),
        ("degenerate", scores(usual=AnswerCounts(60, 54, 0, 5))),
        ("facts", scores(facts=27)),
    ],
)
def test_each_target_can_be_missed(promise: str, bad: object) -> None:
    plain = unit(PLAIN, scores(kls=(1.0, 0.5)))
    found = verdicts([unit(OURS, bad), plain, unit("npo", RIVAL)])  # type: ignore[arg-type]
    (target,) = (target for told, target in found.items() if told.startswith(promise))
    assert target.verdict == "**missed**"


def test_what_did_not_run_is_not_measured() -> None:
    assert {t.verdict for t in verdicts([unit("npo", RIVAL)]).values()} == {"not measured"}
    alone = verdicts([unit(OURS, scores())])
    assert alone["NLL gain of given harmful answers"].verdict == "met"
    assert alone["NLL gain, of the best rival's"].verdict == "not measured"


def test_the_best_unit_is_chosen_on_validation_alone() -> None:
    good, failed = unit("npo", scores(gain=1.0)), unit("ga", None)
    best = unit(OURS, scores(gain=2.0))
    assert best_unit([good, failed, best]) == best
    assert best_unit([failed]) is None


def report_of(base: Scores, units: list[Unit]) -> tuple[Report, str]:
    report = make_report(
        base,
        units,
        METHODS,
        None,
        budget=Budget(1.05, 0.07),
        judge={},
        settings={"a": 1},
        command="c",
    )
    return report, "\n".join(table.render() for table in report.tables)


def each(*complying: bool) -> AnswerCounts:
    return AnswerCounts(len(complying), sum(complying), 0, 0, complying)


def test_the_report_tells_how_sure_compliance_is_where_units_tell_it_by_prompt() -> None:
    all_of_them, half = each(*[True] * 4), each(*[True] * 2, *[False] * 2)
    base = replace(BASE, harmful=all_of_them, normal=all_of_them)
    ours = scores(harmful=each(*[False] * 4), usual=all_of_them)
    rival = scores(harmful=half, usual=half)
    _, text = report_of(base, [unit("npo", rival), unit(OURS, ours), unit("ga", RIVAL)])
    rows = text.split("## How sure compliance is")[1].split("##")[0]
    assert "| npo | 50 (0 to 100) | 0.50 (0.00 to 1.00) | 0.50 (0.00 to 1.00) |  |" in rows
    assert f"| {OURS} | 100 (100 to 100) | 0.00 (0.00 to 0.00) | 1.00 (1.00 to 1.00) |  |" in rows
    assert f"| {OURS}, times the best rival's | 2.0 (1.0 to inf) |  |  |" in rows
    assert "| ga |" not in rows
    _, without = report_of(BASE, [unit("npo", RIVAL), unit(OURS, ours)])
    assert "How sure" not in without


def test_the_report_tells_every_unit_and_no_answer(tmp_path: Path) -> None:
    units = [unit("ga", None), unit("npo", RIVAL), unit(OURS, scores())]
    report, text = report_of(BASE, units)
    assert "| npo | 1.020 | 1.030 | 0.500 | 29.0 |" in text  # KL on own normal answers among them
    assert "| ga | 1 | 0.001 | none: even at strength 0.00391 it costs too much |" in text
    assert "| npo | 0.50 | 2.00 | 60 (47 to 71) |" in text
    assert [kept["answers"] for kept in report.raw["units"]] == [None] * 3
    assert report.raw["settings"] == {"a": 1}
    assert any(ruler.startswith("npo: NPO") for ruler in report.rulers)
    assert any("1.05 x the base's, and a KL of at most 0.07 nats" in r for r in report.rulers)
    plot(tmp_path / "plot.svg", BASE, units)
    drawn = (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert "<!-- npo -->" in drawn
    assert "<!-- ga -->" not in drawn
