"""A task vector that leaves the likelihood of normal answers where it is, to first order.

Preservation divergence holds the model's distribution, and a KL is of second order in the delta: at
small deltas it is nearly nothing. What a small delta costs in perplexity is of first order: along
the gradient g_i of a normal set's NLL, negation by strength s costs -s <g_i, delta>. Harmful
answers that someone wrote share much with normal answers that someone wrote (their style, their
length), so a task vector that has learned the ones makes the others likelier too, and its negation
takes that away from both.

Those components are removed once, after training, in closed form and with no more than a backward
pass over some normal answers of each set i:

    B' = B - amount * sum_i c_i g_i,   <g_j, sum_i c_i g_i> = <g_j, B> for every j

With A as it is, g_i is the gradient of B at theta_o (B = 0). ``amount`` 1 removes what the training
rows tell. They are a sample, and a direction of 10^5 numbers that is estimated on a few hundred
answers holds only a part of what other answers of the same set feel: more than 1 makes up for that.

Memory: a step's, with fewer losses; the copies of B and the gradients lie in the machine's memory.

Related: orthogonal and Fisher-weighted projections of task vectors, which need a set's activations;
gradient projection of continual learning (Saha et al. 2021, arXiv 2103.09762), which is applied to
every step.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from lora_sku.data import Encoder, Pair, Row
from lora_sku.losses import token_nll
from lora_sku.model import AdaptedModel
from lora_sku.recipe import BalanceSection
from lora_sku.step import micro_batches


def balance(
    model: AdaptedModel,
    name: str,
    normal: Sequence[Sequence[Row]],
    encoder: Encoder,
    section: BalanceSection,
    *,
    pairs_at_once: int,
    seed: int,
) -> None:
    """Take out of the adapter's delta what normal sets' likelihood feels of it to first order.

    Args:
        model: Carries the trained adapter.
        name: The adapter's; its B is changed in place.
        normal: Training rows of every normal set.
        encoder: Tokenizes them.
        section: The recipe's.
        pairs_at_once: Prompts with an answer in the model at once.
        seed: Decides which prompts and answers are drawn.
    """
    factors = [layer.lora_B[name].weight for layer in model.adapted_layers if name in layer.lora_B]
    learned = [factor.detach().cpu().clone() for factor in factors]
    rng = random.Random(seed)
    drawn = [_draw(rows, section.prompts, rng) for rows in normal]
    with torch.no_grad():
        for factor in factors:
            factor.zero_()
    gradients = [_gradient(model, factors, pairs, encoder, pairs_at_once) for pairs in drawn]
    balanced = without_components(learned, gradients, section.amount)
    with torch.no_grad():
        for factor, values in zip(factors, balanced, strict=True):
            factor.copy_(values)


def without_components(
    vector: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]], amount: float
) -> list[Tensor]:
    """The vector without ``amount`` times its part in the span of the gradients.

    Args:
        vector: In any number of pieces, on one device.
        gradients: Of the same pieces each.
        amount: 1 makes the vector orthogonal to every gradient, 2 mirrors it at them.
    """
    gram = torch.tensor([[_product(a, b) for b in gradients] for a in gradients]).double()
    felt = torch.tensor([_product(gradient, vector) for gradient in gradients]).double()
    # Two sets may be alike, and then either coefficient will do.
    coefficients = amount * torch.linalg.pinv(gram, hermitian=True, rtol=1e-9) @ felt
    found = [piece.clone() for piece in vector]
    for coefficient, gradient in zip(coefficients.tolist(), gradients, strict=True):
        for piece, part in zip(found, gradient, strict=True):
            piece.sub_(part, alpha=coefficient)
    return found


def _gradient(
    model: AdaptedModel,
    factors: Sequence[Tensor],
    pairs: Sequence[Pair],
    encoder: Encoder,
    pairs_at_once: int,
) -> list[Tensor]:
    """Of the answers' mean NLL with respect to every B, where B is 0."""
    groups = [[encoder.encode(*pair)] for pair in pairs]
    tokens = sum(pair.answer_length for group in groups for pair in group)
    _forget_gradients(model)
    for _, batch in micro_batches(model, groups, pairs_at_once, pad_id=encoder.pad_id):
        nll_N = token_nll(model.answer_states(batch), batch.targets, model.base.head)
        (nll_N.sum() / tokens).backward()  # type: ignore[no-untyped-call]
    gradients = []
    for factor in factors:
        assert factor.grad is not None, "every B is trained"
        gradients.append(factor.grad.cpu())
    _forget_gradients(model)
    return gradients


def _forget_gradients(model: AdaptedModel) -> None:
    for parameter in model.adapter_parameters().values():
        parameter.grad = None


def _draw(rows: Sequence[Row], prompts: int, rng: random.Random) -> list[Pair]:
    """Some prompts, each with one of its answers."""
    chosen = rng.sample(list(rows), min(prompts, len(rows)))
    return [(row.prompt, rng.choice(row.answers)) for row in chosen]


def _product(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return sum(float((a.double() * b).sum()) for a, b in zip(one, other, strict=True))
