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
    """Gain on harmful answers against cost on normal ones, a point for each strength."""
    limit = 1 + WIDEST_COST * (sweep.retain_budget - 1)
    points = curve_of(sweep)
    choice = place(sweep.choice, sweep)
    assert choice is not None, "a choice was measured"
    beyond = sum(cost > limit for cost, _ in points)
    unplaced = sum(place(point, sweep) is None for point in sweep.points)
    kl = "" if sweep.kl_budget is None else f" and a KL of {short(sweep.kl_budget)} nats per token"
    frame = Frame(
        "Forgetting against its price",
        f"The choice gains {number(choice[1])} nats per token at {number(choice[0])} times the"
        f" base's perplexity; the budget is {short(sweep.retain_budget)} times{kl}. All points"
        " are in the table below.",
        "perplexity of normal answers / base's",
        "forgetting, nats per token",
        budget=sweep.retain_budget,
        marks=(choice,),
        x_limit=limit,
    )
    hidden = beyond + unplaced
    more = f" {hidden} points lie beyond the right edge; the table has them." if hidden else ""
    return Figure(
        frame.title,
        "Up is more forgetting, right is more damage; each point is a strength. Left of the dashed"
        f" line is within the budget{_of_perplexity(sweep)}; the ring is the choice.{more}",
        line_chart([Series("strengths", points, 0, dots=True)], frame),
    )


def _of_perplexity(sweep: SweepRecord) -> str:
    return "" if sweep.kl_budget is None else " of perplexity, if KL stays within its own"


def curve_of(sweep: SweepRecord) -> tuple[Point, ...]:
    """(cost, gain) by strength, from the untouched base on."""
    by_strength = sorted(sweep.points, key=lambda point: point.strength)
    places = (place(point, sweep) for point in by_strength)
    return (1.0, 0.0), *(at for at in places if at is not None)


def place(point: SweepPoint, sweep: SweepRecord) -> Point | None:
    """(cost, gain) of a strength; None if either was no finite number."""
    if point.forget_nll is None or point.retain_perplexity_ratio is None:
        return None
    return point.retain_perplexity_ratio, point.forget_nll - sweep.base_forget_nll
