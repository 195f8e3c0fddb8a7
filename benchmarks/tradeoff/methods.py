"""The methods that are compared: each is a recipe, written as what differs from this project's.

All have the same data, adapter, number of steps, prompts in a step, and rule for the strength.
"""

from dataclasses import dataclass
from typing import Literal

Objective = Literal["npo", "dpo", "ga"]

_NOTHING_ON_WHAT_SHIPS = (
    "losses.safe_response.weight=0",
    "losses.held_responses.weight=0",
    "losses.preservation_divergence.side=acquired",
)


@dataclass(frozen=True)
class Method:
    """One way to unlearn.

    Attributes:
        told: What it is, for the table.
        overrides: KEY=VALUE of the recipe.
        objective: Another objective than the recipe's losses, in the same loop.
    """

    told: str
    overrides: tuple[str, ...] = ()
    objective: Objective | None = None


METHODS = {
    "ours": Method("this project's recipe"),
    "refusal-kl": Method(
        "refusal fine-tuning with KL: ours without the paper's two harmful terms",
        ("losses.guided_distortion.weight=0", "losses.random_disassociation.weight=0"),
    ),
    "with-gd-rd": Method(
        "ours with both of the paper's harmful terms",
        (
            "losses.guided_distortion.weight=0.3",
            "losses.random_disassociation={weight: 0.3, responses: 2}",
        ),
    ),
    "without-held": Method("ours without held responses", ("losses.held_responses.weight=0",)),
    "dpo": Method("DPO: the safe response preferred over the harmful answer", objective="dpo"),
    "npo": Method("NPO on harmful answers, with retain likelihood", objective="npo"),
    "sku-published": Method(
        "the paper's three terms and weights at strength 1",
        (
            *_NOTHING_ON_WHAT_SHIPS,
            "losses.guided_distortion.weight=2.5",
            "losses.random_disassociation={weight: 2.5, responses: 5}",
            "losses.preservation_divergence.weight=1",
            "training.learning_rate=2.0e-4",
            "negation.strength=1.0",
        ),
    ),
    "sku-budget": Method(
        "the paper's three terms, preservation weighted up, strength within the budget",
        (
            *_NOTHING_ON_WHAT_SHIPS,
            "losses.guided_distortion.weight=1",
            "losses.random_disassociation={weight: 0.25, responses: 2}",
            "losses.preservation_divergence.weight=80",
        ),
    ),
}
