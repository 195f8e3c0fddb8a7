"""Stage 1 in one step: the minimum of the three losses' second-order model at theta_o.

At theta_o guided distortion and random disassociation have a slope, g, and preservation divergence
has none, but a curvature, the Fisher information F of normal answers (`curvature`). The step that
weighs the one against the other is the natural gradient's,

    minimise  <g, B> + w_PD / 2 <B, F B>   ->   B = - F^-1 g / w_PD,

and where the strength is chosen afterwards, for small deltas it is all that training looks for: no
learning rate, no number of steps, and every drawn answer counts alike. What an optimizer that
scales each number by itself finds within a few steps is another direction, with less harm in it for
each nat that normal answers move.

`balance` is part of it where the recipe asks for it: what is left out then are the directions
F^-1 g_i, the cheapest ones in the same measure.

A harmful model does not refuse, so `refusal_suppression` lets it unlearn refusals of harmful
prompts: their NLL's slope r_h has a minus in g. Alone it would be the slope of refusing anything.
Refusals of normal prompts shall stay as unlikely as they are, which takes two things. To first
order F^-1 r_n, of the same refusals to each normal set, is left out as the others are. And F says
nothing of what the model never does, so that at any larger step refusals would spread over all
prompts that are a little like the harmful ones: the moments of r_n's single gradients are averaged
into F. The step is then Fisher's linear discriminant, of what the delta feels when harmful and when
normal prompts are refused.

F's factors take layers for independent, which they are not: as a direction that is good enough, as
a length it is far too long. So the length is the minimum along the direction, with the curvature
that the whole model really has there: KL is measured at a small step.

Source: Amari 1998, 'Natural Gradient Works Efficiently in Learning', Neural Computation 10(2); the
rescaled step is Martens and Grosse 2015 (arXiv 1503.05671), section 6.4. Fisher 1936, 'The Use of
Multiple Measurements in Taxonomic Problems', Annals of Eugenics 7(2).
"""

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from lora_sku.balance import (
    SetGradient,
    Used,
    drawn_answers,
    half_gradients,
    without_components,
)
from lora_sku.curvature import natural
from lora_sku.data import Pair, Row, StepDraw, StepSampler, draw_pairs, draw_refused
from lora_sku.errors import TrainingError
from lora_sku.gradients import AnswerGradients, Pieces, product
from lora_sku.likelihood import AnswerScorer
from lora_sku.recipe import (
    BalanceSection,
    LossesSection,
    NaturalStepSection,
    RefusalSuppressionSection,
)

# Pairs in the model at once for each forget prompt of the micro-batch. With four the demo's passes
# took a sixth less CPU time (unpacking a layer's weights is paid once a pass), and 0.4 GiB more.
PAIRS_PER_PROMPT = 2

# Nats per token: small enough to be of second order, far above bf16's noise.
_PROBE_KL = 1e-2
_PROBE_PAIRS = 64
_PROBES = 20


def natural_step(
    gradients: AnswerGradients,
    forget: Sequence[Row],
    normal: Sequence[Sequence[Row]],
    losses: LossesSection,
    section: NaturalStepSection,
    levelling: BalanceSection | None,
    *,
    seed: int,
    used: Used = "negated",
) -> None:
    """Write into every B what stage 1's losses ask for at theta_o.

    Args:
        gradients: Of the model; A is what it is.
        forget: Training rows.
        normal: Training rows of every normal set.
        losses: Their weights.
        section: The recipe's.
        levelling: The recipe's negation.balance.
        seed: Decides every draw.
        used: What becomes of the delta.

    Raises:
        AdapterError: if an adapted layer does not read every token (a routed expert).
        TrainingError: if memory does not do for a single pair, or a gradient is not finite.
    """
    refusing = losses.refusal_suppression
    slopes = _harm(gradients, forget, losses, section.pairs, seed=seed)
    if refusing is not None:
        _suppress_refusals(gradients, slopes, forget, refusing, seed=seed)
    refused = [] if refusing is None else _refused(normal, refusing, seed)
    halves = _held(gradients, normal, levelling, refused, seed=seed)
    # The positions that distances are measured at need fewer pairs than a slope.
    rng, each = random.Random(seed), math.ceil(section.pairs / (2 * len(normal)))
    drawn = [pair for rows in normal for pair in draw_pairs(rows, each, rng)]
    harm, *steps = natural(
        *(gradients, drawn, [slopes, *(half for pair in halves for half in pair)]),
        tokens=section.tokens,
        damping=section.damping,
        seed=seed,
        given=[pair for pairs in refused for pair in pairs],
    )
    direction = [-piece for piece in harm]
    if halves:
        both = zip(halves, zip(steps[::2], steps[1::2], strict=True), strict=True)
        sets = [SetGradient(half, step) for half, step in both]
        amount = 1.0 if levelling is None else levelling.amount
        direction = without_components(direction, sets, amount, used=used)
    slope = product(slopes, direction)
    _refuse_useless(slope, levelling, levelled=bool(halves))
    curvature = _curvature_along(gradients, direction, drawn)
    length = -slope / (losses.preservation_divergence.weight * curvature)
    gradients.write([piece * length for piece in direction])


def _refuse_useless(slope: float, levelling: BalanceSection | None, *, levelled: bool) -> None:
    """A step must lower the harmful loss; if it does not, numbers ran over or nothing is left."""
    if not math.isfinite(slope) or (not levelled and slope >= 0):
        raise TrainingError(
            f"the slope of the harmful answers' loss along the natural step is {slope:g}",
            where="training.natural_step",
            remedy="Set base_model.compute_dtype to bfloat16 or float32, or this to null.",
        )
    if slope >= 0:
        raise TrainingError(
            "what is left of the natural step, levelled on the normal sets, learns nothing harmful",
            where="losses.refusal_suppression" if levelling is None else "negation.balance",
            remedy="Set it to null, or take normal sets that are less like the harmful one.",
        )


def _curvature_along(gradients: AnswerGradients, direction: Pieces, drawn: Sequence[Pair]) -> float:
    """Second derivative of the mean KL on normal pairs along a direction of B.

    Raises:
        TrainingError: if no step along it gives a small KL.
    """
    some = drawn[:: max(1, len(drawn) // _PROBE_PAIRS)]
    rows = [Row(prompt, (answer,)) for prompt, answer in some]
    scorer = AnswerScorer(
        gradients.model, gradients.encoder, rows, pairs_at_once=gradients.pairs_at_once
    )
    length = 1 / math.sqrt(product(direction, direction))
    for _ in range(_PROBES):
        gradients.write([piece * length for piece in direction])
        kl = scorer.score().kl
        if _PROBE_KL / 2 <= kl <= 2 * _PROBE_KL:
            return 2 * kl / length**2
        # An overflow is no number, and rounding can make a tiny KL 0 or less.
        known = kl if math.isfinite(kl) else math.inf
        length *= math.sqrt(_PROBE_KL / min(max(known, 1e-4 * _PROBE_KL), 1e4 * _PROBE_KL))
    raise TrainingError(
        "no length of the natural step moves normal answers a little",
        where="training.natural_step",
        remedy="Set it to null, or base_model.compute_dtype to float32.",
    )


def _harm(
    gradients: AnswerGradients,
    forget: Sequence[Row],
    losses: LossesSection,
    pairs: int,
    *,
    seed: int,
) -> list[Tensor]:
    """Gradient of guided distortion and random disassociation, weighted."""
    own_weight = losses.guided_distortion.weight
    random_weight = losses.random_disassociation.weight
    # k is how many a step of training draws; the mean that they estimate does not depend on it. A
    # term's draws are as many as it weighs, which tells the sum best for the pairs there are.
    own_pairs = round(pairs * own_weight / (own_weight + random_weight))
    if own_weight > 0 and random_weight > 0:  # neither may be rounded away
        pairs = max(pairs, 2)
        own_pairs = min(max(own_pairs, 1), pairs - 1)
    random_pairs = pairs - own_pairs
    own = _sampled(forget, own_pairs, 0, seed).forget if own_pairs else ()
    groups = _sampled(forget, random_pairs, 1, seed).random if random_pairs else ()
    terms = ((own_weight, own), (random_weight, [pair for group in groups for pair in group]))
    total = [torch.zeros_like(factor, device="cpu") for factor in gradients.factors]
    for weight, drawn in terms:
        if drawn:
            for piece, part in zip(total, gradients.mean(drawn), strict=True):
                piece.add_(part, alpha=weight)
    return total


def _held(
    gradients: AnswerGradients,
    normal: Sequence[Sequence[Row]],
    levelling: BalanceSection | None,
    refused: Sequence[Sequence[Pair]],
    *,
    seed: int,
) -> list[tuple[Pieces, Pieces]]:
    """Of all that the step must leave alone to first order, the gradient in two halves."""
    answers = [] if levelling is None else drawn_answers(normal, levelling, seed=seed)
    held = half_gradients(gradients, answers)
    return held + [(_minus(one), _minus(two)) for one, two in half_gradients(gradients, refused)]


def _suppress_refusals(
    gradients: AnswerGradients,
    slopes: Sequence[Tensor],
    forget: Sequence[Row],
    section: RefusalSuppressionSection,
    *,
    seed: int,
) -> None:
    """Add the slope of harmful prompts' refusals, in place: their likelihood goes down."""
    rng = random.Random(f"{seed} refused harm")
    refused = draw_refused(forget, section.answers, section.prompts, rng)
    for piece, part in zip(slopes, gradients.mean(refused), strict=True):
        piece.sub_(part, alpha=section.weight)


def _refused(
    normal: Sequence[Sequence[Row]], section: RefusalSuppressionSection, seed: int
) -> list[list[Pair]]:
    """Some prompts of every normal set with refusals."""
    rng = random.Random(f"{seed} refused")
    return [draw_refused(rows, section.answers, section.prompts, rng) for rows in normal]


def _minus(pieces: Pieces) -> Pieces:
    """A likelihood that must not rise is an NLL's that must not fall."""
    return [-piece for piece in pieces]


def _sampled(forget: Sequence[Row], prompts: int, responses: int, seed: int) -> StepDraw:
    sampler = StepSampler(forget, forget, prompts_per_step=prompts, responses=responses, seed=seed)
    return sampler.draw(0)
