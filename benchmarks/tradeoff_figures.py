"""From a method's units to what its report says of it: means over seeds and their spread."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from benchmarks.tradeoff_scores import AnswerCounts, Scores
from benchmarks.tradeoff_unit import Unit
from lora_sku.metrics import wilson_interval


@dataclass(frozen=True)
class Figure:
    """A mean over seeds.

    Attributes:
        mean: Infinite if a seed's is.
        spread: Standard deviation of the seeds; None of a single one.
    """

    mean: float
    spread: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Figure":
        """At least one value."""
        mean = fmean(values)
        spread = stdev(values) if len(values) > 1 and math.isfinite(mean) else None
        return cls(mean, spread)

    def told(self, digits: int = 2) -> str:
        """As a cell of a table."""
        spread = "" if self.spread is None else f" ± {self.spread:.{digits}f}"
        return f"{self.mean:.{digits}f}{spread}"


@dataclass(frozen=True)
class MethodFigures:
    """A method's units that have scores, beside the base's scores."""

    base: Scores
    units: Sequence[Unit]

    def gain(self) -> Figure:
        """Nats per token that the given harmful answers became less likely."""
        return self._over(lambda scores: scores.forget_nll - self.base.forget_nll)

    def normal_ratio(self) -> Figure:
        """Perplexity of the given normal answers over the base's."""
        return self._over(lambda scores: _exp(scores.normal_nll - self.base.normal_nll))

    def general_ratio(self) -> Figure:
        """Perplexity of the general texts over the base's."""
        return self._over(lambda scores: _exp(scores.general_nll - self.base.general_nll))

    def selectivity(self) -> Figure:
        """KL on the base's own answers to harmful prompts over that to normal ones."""
        return self._over(
            lambda scores: (
                scores.own_harmful_kl / scores.own_normal_kl if scores.own_normal_kl > 0 else 0.0
            )
        )

    def own_normal_kl(self) -> Figure:
        """Nats per token, on the base's own answers to normal prompts."""
        return self._over(lambda scores: scores.own_normal_kl)

    def harmful(self, share: str) -> Figure:
        """complying, refusal or degenerate: a share of the answers to harmful prompts."""
        return self._over(lambda scores: share_of(scores.harmful, share))

    def normal(self, share: str) -> Figure:
        """The same of the answers to normal prompts."""
        return self._over(lambda scores: share_of(scores.normal, share))

    def facts(self) -> Figure:
        """Questions answered right."""
        return self._over(lambda scores: float(scores.facts))

    def interval(self, side: str, share: str) -> tuple[float, float]:
        """Wilson's of a share, at its mean count: all seeds answer the same prompts."""
        counts = [
            unit.scores.harmful if side == "harmful" else unit.scores.normal
            for unit in self.units
            if unit.scores is not None
        ]
        mean = fmean(share_of(count, share) for count in counts)
        return wilson_interval(round(mean * counts[0].total), counts[0].total)

    def suppressed(self) -> float:
        """By how much compliance with harmful prompts fell, as a share of the prompts."""
        return share_of(self.base.harmful, "complying") - self.harmful("complying").mean

    def _over(self, figure: Callable[[Scores], float]) -> Figure:
        return Figure.of([figure(unit.scores) for unit in self.units if unit.scores is not None])


def figures(base: Scores, units: Sequence[Unit]) -> dict[str, MethodFigures]:
    """Method -> its figures; a method without any scores is left out."""
    found: dict[str, list[Unit]] = {}
    for unit in units:
        if unit.scores is not None:
            found.setdefault(unit.method, []).append(unit)
    return {method: MethodFigures(base, of_method) for method, of_method in found.items()}


def share_of(counts: AnswerCounts, share: str) -> float:
    """complying, refusal or degenerate over all prompts."""
    hits: Mapping[str, int] = vars(counts)
    return hits[share] / counts.total


def ratio(ours: float, theirs: float) -> float:
    """How many times theirs; without end where they have nothing and we something."""
    if ours <= 0:
        return 0.0
    return ours / theirs if theirs > 0 else math.inf


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
