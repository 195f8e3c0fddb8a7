"""A task vector whose negation costs normal answers no likelihood, to first order.

Preservation divergence holds the model's distribution, and a KL is of second order in the delta: at
small deltas it is nearly nothing. What a small delta costs in perplexity is of first order: along
the gradient g_i of a normal set's NLL, negation by strength s costs -s <g_i, delta>. Harmful
answers that someone wrote share much with normal answers that someone wrote (their style, their
length), so a task vector that has learned the ones makes the others likelier too, and its negation
takes that away from both.

Those components are removed once, after training, in closed form and with no more than a backward
pass over some normal answers of each set i:

    B' = B - amount * sum_i c_i g_i
    <g_j, sum_i c_i g_i> = <g_j, B> for each set j that negation hurts, 0 for the others

With A as it is, g_i is the gradient of B at theta_o (B = 0). ``amount`` 1 removes what the drawn
training rows tell. They are a sample, and a direction of as many numbers as B has holds only a part
of what other answers of the same set feel: more than 1 makes up for that, and for the drawn rows it
is more than that, a small step towards them. What negation makes likelier by itself stays so.

Memory: a step's, with fewer losses; copies of B and a gradient for each set lie in the machine's
memory.

Related: orthogonal gradient descent (Farajtabar et al. 2020, arXiv 1910.07104), which keeps every
step of training off the gradients of earlier tasks.
"""

import math
import random
from collections.abc import Sequence
from typing import Literal

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from lora_sku.data import Encoder, Pair, Row
from lora_sku.errors import TrainingError
from lora_sku.losses import token_nll
from lora_sku.model import AdaptedModel
from lora_sku.recipe import BalanceSection
from lora_sku.step import micro_batches

Used = Literal["negated", "added"]


def balance(
    model: AdaptedModel,
    name: str,
    normal: Sequence[Sequence[Row]],
    encoder: Encoder,
    section: BalanceSection,
    *,
    pairs_at_once: int,
    seed: int,
    used: Used = "negated",
) -> None:
    """Take out of the adapter's delta what costs normal sets likelihood to first order.

    Args:
        model: Carries the trained adapter; checkpointing needs it in training mode.
        name: The adapter's; its B is changed in place.
        normal: Training rows of every normal set.
        encoder: Tokenizes them.
        section: The recipe's.
        pairs_at_once: Prompts with an answer in the model at once; halved when memory runs out.
        seed: Decides which prompts and answers are drawn.
        used: What becomes of the delta: it decides which sets it hurts.

    Raises:
        TrainingError: if memory does not do for a single pair, or a gradient is not finite.
    """
    layers = [layer for layer in model.adapted_layers if name in layer.lora_B]
    for layer in layers:  # the gradient is theta_o's, not that of a draw of dropped inputs
        layer.lora_dropout[name].eval()
    factors = [layer.lora_B[name].weight for layer in layers]
    learned = [factor.detach().cpu().clone() for factor in factors]
    rng = random.Random(seed)
    drawn = [_draw(rows, section.prompts, rng) for rows in normal]
    with torch.no_grad():
        for factor in factors:
            factor.zero_()
    gradients = []
    for pairs in drawn:
        found, pairs_at_once = _gradient(model, factors, pairs, encoder, pairs_at_once)
        gradients.append(found)
    balanced = without_components(learned, gradients, section.amount, used=used)
    with torch.no_grad():
        for factor, values in zip(factors, balanced, strict=True):
            factor.copy_(values)


def without_components(
    vector: Sequence[Tensor],
    gradients: Sequence[Sequence[Tensor]],
    amount: float,
    *,
    used: Used = "negated",
) -> list[Tensor]:
    """The vector without ``amount`` times those of its components that cost a set likelihood.

    Args:
        vector: In any number of pieces, on one device.
        gradients: Of the same pieces each.
        amount: 1 makes the vector orthogonal to the gradients of the sets that it hurts, 2 mirrors
            it at them; what it does to other sets stays as it is.
        used: A vector that is negated hurts where its product with a gradient is below 0.

    Raises:
        TrainingError: if a gradient is not finite.
    """
    gram = torch.tensor(
        [[_product(a, b) for b in gradients] for a in gradients], dtype=torch.float64
    )
    products = [_product(gradient, vector) for gradient in gradients]
    felt = torch.tensor(products, dtype=torch.float64)
    if not (gram.isfinite().all() and felt.isfinite().all()):
        raise TrainingError(
            "a gradient of the normal sets is not finite, so the task vector cannot be levelled",
            where="negation.balance",
            remedy="Set base_model.compute_dtype to bfloat16 or float32, or balance to null.",
        )
    hurts = felt < 0 if used == "negated" else felt > 0
    # Two sets may be alike, and then either coefficient will do.
    inverse = torch.linalg.pinv(gram, hermitian=True, rtol=1e-9)
    coefficients = inverse @ torch.where(hurts, amount * felt, 0.0)
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
) -> tuple[list[Tensor], int]:
    """Of the answers' mean NLL with respect to every B, at B = 0; and how many pairs went in."""
    groups = [[encoder.encode(*pair)] for pair in pairs]
    tokens = sum(pair.answer_length for group in groups for pair in group)
    while True:
        _forget_gradients(model)
        try:
            for _, batch in micro_batches(model, groups, pairs_at_once, pad_id=encoder.pad_id):
                nll_N = token_nll(model.answer_states(batch), batch.targets, model.base.head)
                (nll_N.sum() / tokens).backward()  # type: ignore[no-untyped-call]
            break
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if pairs_at_once == 1:
                raise TrainingError(
                    "out of memory with a single normal answer at once",
                    where="negation.balance",
                    remedy="Lower data.max_answer_tokens, or set balance to null; --resume goes on"
                    " after the last step of training.",
                ) from error
        pairs_at_once = math.ceil(pairs_at_once / 2)
        if model.base.device.type == "cuda":
            torch.cuda.empty_cache()
    gradients = [
        torch.zeros_like(factor, device="cpu") if factor.grad is None else factor.grad.cpu()
        for factor in factors
    ]
    _forget_gradients(model)
    return gradients, pairs_at_once


def _forget_gradients(model: AdaptedModel) -> None:
    for parameter in model.adapter_parameters().values():
        parameter.grad = None


def _draw(rows: Sequence[Row], prompts: int, rng: random.Random) -> list[Pair]:
    """Some prompts, each with one of its answers."""
    chosen = rng.sample(list(rows), min(prompts, len(rows)))
    return [(row.prompt, rng.choice(row.answers)) for row in chosen]


def _product(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    return sum(float((a.double() * b).sum()) for a, b in zip(one, other, strict=True))
