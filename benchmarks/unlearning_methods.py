"""The unlearning methods of the trade-off benchmark by name.

All put a LoRA on the same layers. Those that are trained take the same steps with the same
optimizer, and each step sees the same number of answers, whatever a method makes of them; SKU's k
random answers for a prompt are more prompts elsewhere. What KL to theta_o weighs is as published;
the variants take the weight that the recipe chose for SKU.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from benchmarks.unlearning_objectives import AnswerTerm, Objective, harmful, mismatched, normal
from lora_sku.discriminants import STRETCHES
from lora_sku.recipe import DiscriminantsSection, LossesSection, SubspaceSection

OURS = "sku-retain-aware"
PLAIN = "sku-preserve"
# What a multiple of their best is promised of.
RIVALS = (
    *("ga", "ga-mismatch", "ga-mismatch-kl", "npo", "npo-by-answer", "npo-kl"),
    *("task-vector", "sku-published"),
)
# Run only where they are named: some take long, some have told nothing that others do not.
EXTRAS = (
    *("sku-selective", "sku-random-a", "sku-projected", "sku-k10"),
    *("ga-mismatch-kl", "npo-by-answer", "npo-kl"),
)
NPO_BETA = 0.1
RANK = 16  # of a method's LoRA, unless it reads discriminants alone
# Of refusals beside the harmful answers, whose weight is the recipe's.
REFUSALS = 1.0
DISCRIMINANTS = SubspaceSection(discriminants=DiscriminantsSection(prompts=512))
SELECTIVE = SubspaceSection(discriminants=None)


@dataclass(frozen=True)
class UnlearningMethod:
    """One way to an adapter that unlearns.

    Attributes:
        meaning: For the report.
        negated: What was learned is taken away; else it is added.
        losses: SKU's three terms; for another objective, how many answers are drawn.
        prompts: Forget prompts of a step.
        objective: None is SKU's.
        subspace: What A is fixed to; None trains it.
        rank: Of the LoRA.
        balanced: The task vector is levelled on the normal sets before it is used.
        natural: Stage 1 is one natural-gradient step; nothing is trained.
        projected: The task vector may be projected away from normal inputs.
        every_seed: Runs with each seed; else with the first one only.
    """

    meaning: str
    negated: bool
    losses: LossesSection
    prompts: int
    objective: Objective | None = None
    subspace: SubspaceSection | None = None
    rank: int = RANK
    balanced: bool = False
    natural: bool = False
    projected: bool = False
    every_seed: bool = True

    def definition(self) -> dict[str, Any]:
        """All that its figures depend on beside the benchmark's settings, as JSON gives it back."""
        subspace = self.subspace and self.subspace.model_dump()
        objective = self.objective and self.objective.as_dict()
        parts = {
            part.name: getattr(self, part.name)
            for part in fields(self)
            if part.name not in ("meaning", "every_seed")
        }
        plain = {"losses": self.losses.model_dump(), "subspace": subspace, "objective": objective}
        told: dict[str, Any] = json.loads(json.dumps(parts | plain))
        return told


def unlearning_methods(
    tuned: LossesSection, *, prompts: int, responses: int
) -> dict[str, UnlearningMethod]:
    """All methods, in the order of the report.

    Args:
        tuned: The recipe's weights, for SKU with preservation.
        prompts: Forget prompts of a step of SKU.
        responses: k.
    """
    kept = tuned.preservation_divergence
    answers = prompts * (1 + responses + kept.prompts)
    sku = _changed(tuned, random_disassociation={"responses": responses})
    published = LossesSection.model_validate(
        {
            "random_disassociation": {"responses": responses},
            "preservation_divergence": {"direction": "diverge", "prompts": kept.prompts},
        }
    )

    refusing = _changed(sku, refusal_suppression={"weight": REFUSALS})

    def rival(meaning: str, objective: Objective, kinds: int, **keys: Any) -> UnlearningMethod:
        """``kinds``: how many kinds of answers share those of a step."""
        each = max(1, round(answers / kinds))
        return UnlearningMethod(meaning, False, _DRAW, each, objective, **keys)

    def mismatch(preserve: float) -> Objective:
        terms = (AnswerTerm(harmful, -0.5), AnswerTerm(mismatched, 1.0))
        return Objective(terms, preserve)

    def npo(preserve: float, *, by_answer: bool = False) -> Objective:
        return Objective((AnswerTerm(harmful, -1.0, NPO_BETA, by_answer),), preserve)

    def ablation(meaning: str, **changes: Mapping[str, Any]) -> UnlearningMethod:
        losses = _changed(sku, **changes)
        return UnlearningMethod(meaning, True, losses, prompts, every_seed=False)

    once = {"every_seed": False}
    ours = UnlearningMethod(
        f"{PLAIN} with adapter.subspace (discriminants alone, rank {STRETCHES}),"
        " training.natural_step, negation.balance and losses.refusal_suppression (weight"
        f" {REFUSALS:g})",
        *(True, refusing, prompts),
        subspace=DISCRIMINANTS,
        rank=STRETCHES,
        balanced=True,
        natural=True,
    )
    part = replace(ours, every_seed=False)
    return {
        "retain-only": rival(
            "fine-tuning on normal answers only",
            Objective((AnswerTerm(normal, 1.0),)),
            1,
            every_seed=False,
        ),
        "ga": rival(
            "gradient ascent on harmful answers (Jang et al. 2023)",
            Objective((AnswerTerm(harmful, -1.0),)),
            1,
        ),
        "ga-mismatch": rival(
            "gradient ascent, normal answers to harmful prompts, KL on normal ones (Yao et al."
            " 2023, weights 0.5, 1, 1)",
            mismatch(1.0),
            3,
        ),
        "npo": rival(
            "NPO with KL on normal answers (Zhang et al. 2024), both means over tokens", npo(1.0), 2
        ),
        "task-vector": UnlearningMethod(
            "fine-tuning on harmful answers, negated (Ilharco et al. 2023)",
            True,
            _changed(_DRAW, preservation_divergence={"weight": 0.0}),
            answers,
        ),
        "sku-published": UnlearningMethod(
            "SKU, weights and PD's direction as released, bounded", True, published, prompts
        ),
        PLAIN: UnlearningMethod(
            "SKU with preservation, plain negation, the recipe's weights", True, sku, prompts
        ),
        OURS: ours,
        "sku-selective": replace(
            part,
            meaning=f"{OURS} with selective directions instead of discriminants, rank {RANK}",
            subspace=SELECTIVE,
            rank=RANK,
        ),
        "sku-answers-only": replace(
            part, meaning=f"{OURS} without losses.refusal_suppression", losses=sku
        ),
        "sku-unlevelled": replace(part, meaning=f"{OURS} without negation.balance", balanced=False),
        "sku-random-a": replace(
            part,
            meaning=f"{OURS} without adapter.subspace, so in a random A of rank {RANK}",
            subspace=None,
            rank=RANK,
        ),
        "sku-by-adam": replace(
            part,
            meaning="sku-answers-only trained, not solved by training.natural_step",
            losses=sku,
            natural=False,
        ),
        "sku-projected": UnlearningMethod(
            f"{PLAIN} with negation.projection, mu chosen",
            *(True, sku, prompts),
            projected=True,
            every_seed=False,
        ),
        "ga-mismatch-kl": rival(
            f"ga-mismatch with a KL that weighs {kept.weight:g}", mismatch(kept.weight), 3, **once
        ),
        "npo-balanced": rival("npo with negation.balance", npo(1.0), 2, balanced=True, **once),
        "npo-by-answer": rival(
            "npo with NPO's mean over answers, as it was published",
            npo(1.0, by_answer=True),
            2,
            **once,
        ),
        "npo-kl": rival(f"npo with a KL that weighs {kept.weight:g}", npo(kept.weight), 2, **once),
        "sku-no-gd": ablation(
            f"{PLAIN} without guided distortion", guided_distortion={"weight": 0.0}
        ),
        "sku-no-rd": ablation(
            f"{PLAIN} without random disassociation", random_disassociation={"weight": 0.0}
        ),
        "sku-no-pd": ablation(
            f"{PLAIN} without preservation divergence", preservation_divergence={"weight": 0.0}
        ),
        "sku-k1": ablation(f"{PLAIN} with k = 1", random_disassociation={"responses": 1}),
        "sku-k10": ablation(f"{PLAIN} with k = 10", random_disassociation={"responses": 10}),
        "sku-diverge": ablation(
            f"{PLAIN} with PD's direction turned round",
            preservation_divergence={"direction": "diverge"},
        ),
    }


def _changed(losses: LossesSection, **changes: Mapping[str, Any]) -> LossesSection:
    """The same losses with some keys of some terms changed."""
    dumped = losses.model_dump()
    return LossesSection.model_validate(
        dumped | {term: (dumped[term] or {}) | dict(keys) for term, keys in changes.items()}
    )


# One normal answer for each harmful one and no random ones; the weights are the objective's.
_DRAW = LossesSection.model_validate(
    {"random_disassociation": {"weight": 0.0}, "preservation_divergence": {"prompts": 1}}
)
