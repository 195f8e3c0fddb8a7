"""The strengths that a sweep tried, as rows for the page and for the console."""

from collections.abc import Iterator, Sequence

from lora_sku.report.records import SweepBudget, SweepCost, SweepPoint, SweepRecord
from lora_sku.report.text import change, number, percent, short

HEADER = (
    "Strength",
    "Harmful refused",
    "Normal newly refused",
    "Hard negatives newly refused",
    "Perplexity ratio",
    "First-token KL",
    "Harmful NLL",
    "Choice",
)


def strength_rows(sweep: SweepRecord) -> Iterator[tuple[str, ...]]:
    """A row for each strength, for `HEADER`."""
    for point in sweep.points:
        hard = point.hard_negatives
        yield (
            short(point.strength),
            f"{point.refused} of {point.prompts}",
            _refused(point.normal),
            _refused(() if hard is None else (hard,)),
            number(point.perplexity_ratio),
            number(point.first_kl, 4),
            _lost(point, sweep.base),
            "chosen" if point == sweep.choice else "",
        )


def bounds(budget: SweepBudget) -> str:
    """What normal prompts may lose, in a sentence."""
    told = [f"perplexity at most {short(budget.perplexity_ratio)} x the base\u2019s"]
    if budget.first_kl is not None:
        told.append(f"KL at the first tokens at most {short(budget.first_kl)} nats per token")
    for share, what in (
        (budget.refused, "normal prompts"),
        (budget.hard_negatives_refused, "hard negatives"),
    ):
        if share is not None:
            end = f"upper end of a {percent(budget.confidence)} interval"
            told.append(f"at most {percent(share)} of {what} newly refused ({end})")
    return f"Bounds: {'; '.join(told)}."


def _refused(costs: Sequence[SweepCost]) -> str:
    prompts = sum(cost.prompts for cost in costs)
    return f"{sum(cost.refused for cost in costs)} of {prompts}" if prompts else number(None)


def _lost(point: SweepPoint, base: SweepPoint) -> str:
    if point.forget_nll is None or base.forget_nll is None:
        return number(None)
    return change(point.forget_nll - base.forget_nll)
