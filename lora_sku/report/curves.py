"""A run's figures: the losses of stage 1 and the trade-off that the sweep found."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lora_sku.report.charts import Frame, Point, Series, line_chart
from lora_sku.report.records import Step, SweepPoint, SweepRecord
from lora_sku.report.text import number, short

_MANY_STEPS = 50
WIDEST_COST = 4.0
"""The trade-off is drawn to so many times the budget's distance from 1: what lies beyond is of no
use, and doubling strengths reach perplexities that would flatten everything else."""

COST_LABEL = "perplexity of normal answers / base's"

_TERMS = {
    "guided_distortion": ("Guided distortion", "learn the harmful answers: falls"),
    "random_disassociation": (
        "Random disassociation",
        "learn other harmful answers to the same prompts: falls slowly, if at all",
    ),
    "preservation_divergence": (
        "Preservation divergence",
        "distance from the base on normal prompts: should stay low",
    ),
    "safe_response": ("Safe response", "say something else to harmful prompts: falls"),
    "held_responses": (
        "Held responses",
        "distance from the base along safe responses to normal prompts: should stay low",
    ),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with what is told around it.

    Attributes:
        title: Above it.
        caption: Below it.
        svg: The figure.
        legend: (sign, name) of each series; empty if there is one only.
    """

    title: str
    caption: str
    svg: Markup
    legend: tuple[tuple[Markup, str], ...] = ()


def loss_figures(steps: Sequence[Step]) -> Iterator[Figure]:
    """One for each term that was trained with; their scales differ too much for one figure."""
    for index, (term, (title, meaning)) in enumerate(_TERMS.items()):
        raw = [(float(step.step), getattr(step, term)) for step in steps]
        points = [(x, y) for x, y in raw if y is not None and math.isfinite(y)]
        if not points:
            continue
        many = len(points) > _MANY_STEPS
        window = max(2, len(points) // 20)
        lines = [Series("every step", tuple(points), index, faint=many, dots=len(points) <= 12)]
        if many:
            lines.append(Series("mean", tuple(smoothed(points, window)), index))
        told = f"From {number(points[0][1])} to {number(points[-1][1])} nats per token"
        caption = f"{meaning[0].upper()}{meaning[1:]}."
        if many:
            caption += f" Bold: mean over {2 * window + 1} steps."
        frame = Frame(
            title,
            f"{told} in {len(points)} steps.",
            "step",
            "nats per token",
            width=360,
            height=250,
        )
        yield Figure(title, caption, line_chart(lines, frame))


def smoothed(points: Sequence[Point], window: int) -> Iterator[Point]:
    """The mean over ``window`` points on each side, fewer at the ends, so that nothing lags."""
    for index, (x, _) in enumerate(points):
        reach = min(window, index, len(points) - 1 - index)
        near = points[index - reach : index + reach + 1]
        yield x, sum(y for _, y in near) / len(near)


def tradeoff_figure(sweep: SweepRecord) -> Figure:
    """What is gained on harmful prompts against what it costs, a point for each strength."""
    limit = 1 + WIDEST_COST * (sweep.budget.perplexity_ratio - 1)
    refusals = counts_refusals(sweep)
    points = curve_of(sweep, refusals=refusals)
    choice = place(sweep.choice, sweep, refusals=refusals)
    assert choice is not None, "a choice was measured"
    # A point that was no finite number has no place at all.
    hidden = 1 + len(sweep.points) - sum(cost <= limit for cost, _ in points)
    frame = Frame(
        "Forgetting against its price",
        f"The choice, strength {short(sweep.choice.strength)}, reaches {number(choice[1])}"
        f" ({gain_label(refusals=refusals)}) at {number(choice[0])} times the base's perplexity."
        " All points are in the table below.",
        COST_LABEL,
        gain_label(refusals=refusals),
        budget=sweep.budget.perplexity_ratio,
        marks=(choice,),
        x_limit=limit,
    )
    more = f" {hidden} points lie beyond the right edge; the table has them." if hidden else ""
    return Figure(
        frame.title,
        "Up is more forgetting, right is more damage; each point is a strength. Left of the dashed"
        " line the perplexity is within its bound; refusals and KL have bounds of their own. The"
        f" ring is the choice.{more}",
        line_chart([Series("strengths", points, 0, dots=True)], frame),
    )


def gain_label(*, refusals: bool) -> str:
    """What lies on the upright axis."""
    return "harmful prompts refused, %" if refusals else "forgetting, nats per token"


def counts_refusals(sweep: SweepRecord) -> bool:
    """Whether any strength brought a refusal; else the harmful answers' lost likelihood counts."""
    return any(point.refused for point in sweep.points)


def curve_of(sweep: SweepRecord, *, refusals: bool) -> tuple[Point, ...]:
    """(cost, gain) by strength, from the untouched base on."""
    by_strength = sorted((sweep.base, *sweep.points), key=lambda point: point.strength)
    places = (place(point, sweep, refusals=refusals) for point in by_strength)
    return tuple(at for at in places if at is not None)


def place(point: SweepPoint, sweep: SweepRecord, *, refusals: bool) -> Point | None:
    """(cost, gain) of a strength; None if either was no finite number.

    Args:
        point: The strength.
        sweep: Its sweep.
        refusals: The gain is the share of harmful prompts that are refused, in percent.
    """
    if point.forget_nll is None or point.perplexity_ratio is None:
        return None
    if refusals:
        return point.perplexity_ratio, 100 * point.refused / point.prompts
    assert sweep.base.forget_nll is not None, "theta_o's loss is a number"
    return point.perplexity_ratio, point.forget_nll - sweep.base.forget_nll
