"""What normal prompts may lose by the strength that is chosen.

A bound on refused prompts holds for the upper end of a confidence interval, for a few prompts can
all be answered by luck.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from lora_sku.errors import DataError
from lora_sku.metrics import upper_bound
from lora_sku.recipe import HARD_NEGATIVES


@dataclass(frozen=True, slots=True)
class Cost:
    """What a strength does to the validation split of one normal set.

    Attributes:
        name: "retain", or the protected set's.
        perplexity_ratio: Perplexity of its answers over theta_o's.
        kl: KL(theta_o || model) at those answers, nats per token.
        first_kl: The same over the first three tokens of each answer.
        refused: Prompts that are refused and were not by theta_o.
        prompts: Of so many.
    """

    name: str
    perplexity_ratio: float
    kl: float
    first_kl: float
    refused: int
    prompts: int


@dataclass(frozen=True, slots=True)
class Budget:
    """What normal prompts may lose; None is no bound.

    Attributes:
        perplexity_ratio: Of each normal set but the hard negatives.
        first_kl: Of the same.
        refused: Share of those sets' prompts together, by the upper end of its interval.
        hard_negatives_refused: Share of the hard negatives, in the same way.
        confidence: Of the upper end.
    """

    perplexity_ratio: float
    first_kl: float | None = None
    refused: float | None = None
    hard_negatives_refused: float | None = None
    confidence: float = 0.95

    def broken_by(self, costs: Sequence[Cost]) -> str | None:
        """Which recipe key's bound the costs break, and where; None if they keep all."""
        normal = [cost for cost in costs if cost.name != HARD_NEGATIVES]
        hard = [cost for cost in costs if cost.name == HARD_NEGATIVES]
        for cost in normal:
            if not cost.perplexity_ratio <= self.perplexity_ratio:  # true for NaN too
                return f"negation.retain_budget, on the {cost.name} set"
            if self.first_kl is not None and not cost.first_kl <= self.first_kl:
                return f"negation.kl_budget, on the {cost.name} set"
        if self.too_many(normal, self.refused):
            return "negation.refusals_budget"
        if self.too_many(hard, self.hard_negatives_refused):
            return "negation.hard_negatives_budget"
        return None

    def too_many(self, costs: Sequence[Cost], most: float | None) -> bool:
        """Whether the share of refused prompts may lie above ``most``."""
        refused, prompts = sum(c.refused for c in costs), sum(c.prompts for c in costs)
        if most is None or prompts == 0:
            return False
        return upper_bound(refused, prompts, self.confidence) > most


def refuse_too_few(budget: Budget, prompts: Mapping[str, int]) -> None:
    """Tell before training that the normal sets are too small for a bound to be kept at all.

    Args:
        budget: What they may lose.
        prompts: Name -> validation prompts of each normal set.

    Raises:
        DataError: naming the bound, and how many prompts it takes.
    """
    spotless = [Cost(name, 1.0, 0.0, 0.0, 0, some) for name, some in prompts.items()]
    broken = budget.broken_by(spotless)
    if broken is None:
        return
    hard = broken == "negation.hard_negatives_budget"
    most = budget.hard_negatives_refused if hard else budget.refused
    assert most is not None, "only a bound on refusals can be broken by none"
    held = [cost for cost in spotless if (cost.name == HARD_NEGATIVES) is hard]
    needed = next(n for n in count(1) if upper_bound(0, n, budget.confidence) <= most)
    raise DataError(
        f"{most:g} refused is more than {sum(cost.prompts for cost in held)} validation prompts of"
        f" {', '.join(cost.name for cost in held)} can rule out: even if none is refused, their"
        f" {100 * budget.confidence:g} % interval reaches further",
        where=broken,
        remedy=f"It takes {needed}: raise data.validation_fraction or evaluation.max_prompts, give"
        f" more prompts, or loosen {broken} (null is no bound).",
    )
