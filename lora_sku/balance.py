"""A task vector whose negation costs normal answers no likelihood, to first order.

Preservation divergence holds the model's distribution, and a KL is of second order in the delta: at
small deltas it is nearly nothing. What a small delta costs in perplexity is of first order: along
the gradient g_i of a normal set's NLL, negation by strength s costs -s <g_i, delta>. Harmful
answers that someone wrote share much with normal answers that someone wrote (their style, their
length), so a task vector that has learned the ones makes the others likelier too, and its negation
takes that away from both.

Those components are removed in closed form, for no more than a backward pass over some normal
answers of each set i:

    B' = B - amount * sum_i c_i P g_i
    <g_j, sum_i c_i P g_i> = <g_j, B> for each set j that negation hurts, 0 for the others

P is the identity, or what `natural_step` measures distances by. With A as it is, g_i is the
gradient of B at theta_o (B = 0). What negation makes likelier by itself stays so.

The drawn answers are a sample, and a direction of as many numbers as B has fits them far better
than it fits others of the same set. So each set is gone through in two halves: what one half's
gradient says of the other's is what an answer outside of the sample feels, and `amount` 1 removes
the cost to *those*. For the drawn ones it is a small step towards them.

Memory: a step's, with fewer losses; copies of B and two gradients for each set lie in the machine's
memory.

Related: orthogonal gradient descent (Farajtabar et al. 2020, arXiv 1910.07104), which keeps every
step of training off the gradients of earlier tasks.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lora_sku.data import Pair, Row, draw_pairs
from lora_sku.errors import TrainingError
from lora_sku.gradients import AnswerGradients, Pieces, product
from lora_sku.recipe import BalanceSection

Used = Literal["negated", "added"]
# The least share of a set's gradient that is taken to be felt outside of the sample: a set of which
# two halves agree less has no direction that could be told from chance.
_LEAST_SHARE = 0.25


@dataclass(frozen=True)
class SetGradient:
    """The gradient of a normal set's NLL, in two halves of its drawn answers.

    Attributes:
        halves: Of the mean over each half.
        steps: P of both.
    """

    halves: tuple[Pieces, Pieces]
    steps: tuple[Pieces, Pieces]

    @property
    def mean(self) -> list[Tensor]:
        """Of both halves."""
        return _halfway(*self.halves)

    @property
    def step(self) -> list[Tensor]:
        """P of the mean."""
        return _halfway(*self.steps)


def balance(
    gradients: AnswerGradients,
    normal: Sequence[Sequence[Row]],
    section: BalanceSection,
    *,
    seed: int,
    used: Used = "negated",
) -> None:
    """Take out of an adapter's delta what costs normal sets likelihood to first order.

    Args:
        gradients: Of the model as it was trained; the result is written into its B.
        normal: Training rows of every normal set.
        section: The recipe's.
        seed: Decides which prompts and answers are drawn.
        used: What becomes of the delta: it decides which sets it hurts.

    Raises:
        TrainingError: if memory does not do for a single pair, or a gradient is not finite.
    """
    halves = half_gradients(gradients, drawn_answers(normal, section, seed=seed))
    sets = [SetGradient(pair, pair) for pair in halves]
    gradients.write(without_components(gradients.learned, sets, section.amount, used=used))


def drawn_answers(
    normal: Sequence[Sequence[Row]], section: BalanceSection, *, seed: int
) -> list[list[Pair]]:
    """Some answers of every set."""
    rng = random.Random(seed)
    return [draw_pairs(rows, section.prompts, rng) for rows in normal]


def half_gradients(
    gradients: AnswerGradients, sets: Sequence[Sequence[Pair]]
) -> list[tuple[Pieces, Pieces]]:
    """Of every set's answers, one half and the other; a single answer is both.

    Raises:
        TrainingError: if memory does not do for a single pair.
    """
    found: list[tuple[Pieces, Pieces]] = []
    for drawn in sets:
        one = gradients.mean(drawn[::2])
        found.append((one, gradients.mean(drawn[1::2]) if len(drawn) > 1 else one))
    return found


def without_components(
    vector: Pieces, sets: Sequence[SetGradient], amount: float, *, used: Used = "negated"
) -> list[Tensor]:
    """The vector without ``amount`` times those of its components that cost a set likelihood.

    Args:
        vector: In any number of pieces, on one device.
        sets: Gradients of the same pieces.
        amount: 1 leaves other answers of a hurt set what they were, to first order; what it does
            to other sets stays as it is.
        used: A vector that is negated hurts where its product with a gradient is below 0.

    Raises:
        TrainingError: if a gradient is not finite.
    """
    means, steps = [one.mean for one in sets], [one.step for one in sets]
    gram = _symmetric([[product(mean, step) for step in steps] for mean in means])
    across = _symmetric(
        [[product(one.halves[0], other.steps[1]) for other in sets] for one in sets]
    )
    felt = torch.tensor([product(mean, vector) for mean in means], dtype=torch.float64)
    if not all(values.isfinite().all() for values in (gram, across, felt)):
        raise TrainingError(
            "a gradient of the normal sets is not finite, so the task vector cannot be levelled",
            where="negation.balance",
            remedy="Set base_model.compute_dtype to bfloat16 or float32, or balance to null.",
        )
    hurts = felt < 0 if used == "negated" else felt > 0
    coefficients = _felt_outside(gram, across) @ torch.where(hurts, amount * felt, 0.0)
    found = [piece.clone() for piece in vector]
    for coefficient, step in zip(coefficients.tolist(), steps, strict=True):
        for piece, part in zip(found, step, strict=True):
            piece.sub_(part, alpha=coefficient)
    return found


def _felt_outside(gram: Tensor, across: Tensor) -> Tensor:
    """The inverse of the products of the sets' true gradients, (sets, sets) float64.

    Args:
        gram: Products of the drawn answers' gradients, each of which feels itself.
        across: Those between one half and the other, which share no answer.
    """
    # Two sets may be alike: what cannot be told apart is taken as one.
    values, vectors = torch.linalg.eigh(gram)
    kept = values > 1e-9 * values.max()
    whiten = vectors[:, kept] * values[kept].rsqrt()
    shares, turns = torch.linalg.eigh(whiten.T @ across @ whiten)
    turned = whiten @ turns
    inverse: Tensor = (turned / shares.clamp(_LEAST_SHARE, 1.0)) @ turned.T
    return inverse


def _symmetric(rows: Sequence[Sequence[float]]) -> Tensor:
    values = torch.tensor(rows, dtype=torch.float64)
    return (values + values.T) / 2


def _halfway(one: Pieces, other: Pieces) -> list[Tensor]:
    return [torch.lerp(a, b, 0.5) for a, b in zip(one, other, strict=True)]
