"""The losses of stage 1: tensors in, scalar out, never a full logits tensor.

Source of the first three: Liu et al. 2024 (arXiv 2402.10058), section 3; two are this project's.

Shape suffixes: N answer tokens, C tokens of a chunk, D hidden size, V vocabulary size.

A language model's head turns hidden states into V logits a token; at V = 128k and fp32 that is half
a MB a token, four times over with the gradients. The head is frozen here, so the gradient towards
the hidden states can be formed chunk by chunk in the forward pass, and only that (N, D) tensor is
kept. The values and gradients are those of the plain computation.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from lora_sku.head import Head

CHUNK_TOKENS = 128


def _softmax_(logits_CV: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax in the logits' own memory, and the log of its norm (C, 1).

    In place because a chunk of logits is by far the largest tensor of a loss.
    """
    largest_C1 = logits_CV.amax(-1, keepdim=True)
    exp_CV = logits_CV.sub_(largest_C1).exp_()
    norm_C1 = exp_CV.sum(-1, keepdim=True)
    return exp_CV.div_(norm_C1), largest_C1 + norm_C1.log()


def _divergence_(logits_CV: Tensor, reference_CV: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """KL(reference || model) (C,), both's probabilities in place, and log of the model's norm.

    Args:
        logits_CV: The model's, overwritten by its probabilities.
        reference_CV: theta_o's, overwritten by its own.
    """
    difference_CV = reference_CV - logits_CV
    q_CV, log_norm_q_C1 = _softmax_(reference_CV)
    p_CV, log_norm_p_C1 = _softmax_(logits_CV)
    # log q - log p = (reference - logits) - (log norm of q - log norm of p)
    expected_C = difference_CV.mul_(q_CV).sum(-1)
    return expected_C - (log_norm_q_C1 - log_norm_p_C1).squeeze(1), p_CV, q_CV, log_norm_p_C1


class _TokenNll(torch.autograd.Function):
    """Negative log-likelihood of each target; keeps one (N, D) gradient, no logits."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, targets_N: Tensor, head: Head, chunk_tokens: int
    ) -> Tensor:
        nll_N = torch.empty(len(targets_N), dtype=torch.float32, device=hidden_ND.device)
        needs_grad = ctx.needs_input_grad[0]
        grad_ND = torch.empty_like(hidden_ND) if needs_grad else None
        for start in range(0, len(targets_N), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            targets_C1 = targets_N[chunk, None]
            logits_CV = head.logits(hidden_ND[chunk])
            slope_CV = head.slope(logits_CV) if grad_ND is not None else None
            target_C1 = logits_CV.gather(1, targets_C1)
            p_CV, log_norm_C1 = _softmax_(logits_CV)
            nll_N[chunk] = (log_norm_C1 - target_C1).squeeze(1)
            if grad_ND is not None:
                p_CV.scatter_add_(1, targets_C1, p_CV.new_full(targets_C1.shape, -1.0))
                grad_ND[chunk] = head.pull_back(p_CV, slope_CV)
        ctx.save_for_backward(grad_ND)
        return nll_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (grad_ND,) = ctx.saved_tensors
        return grad_ND * grad_outputs[0][:, None].to(grad_ND.dtype), None, None, None


class _TokenKl(torch.autograd.Function):
    """KL(reference || model) at each position; keeps one (N, D) gradient, no logits."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, reference_ND: Tensor, head: Head, chunk_tokens: int
    ) -> Tensor:
        kl_N = torch.empty(len(hidden_ND), dtype=torch.float32, device=hidden_ND.device)
        needs_grad = ctx.needs_input_grad[0]
        grad_ND = torch.empty_like(hidden_ND) if needs_grad else None
        for start in range(0, len(hidden_ND), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            logits_CV = head.logits(hidden_ND[chunk])
            reference_CV = head.logits(reference_ND[chunk])
            slope_CV = head.slope(logits_CV) if grad_ND is not None else None
            kl_N[chunk], p_CV, q_CV, _ = _divergence_(logits_CV, reference_CV)
            if grad_ND is not None:
                grad_ND[chunk] = head.pull_back(p_CV.sub_(q_CV), slope_CV)
        ctx.save_for_backward(grad_ND)
        return kl_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (grad_ND,) = ctx.saved_tensors
        return grad_ND * grad_outputs[0][:, None].to(grad_ND.dtype), None, None, None


def token_nll(
    hidden_ND: Tensor, targets_N: Tensor, head: Head, *, chunk_tokens: int = CHUNK_TOKENS
) -> Tensor:
    """Negative log-likelihood of each target token in nats, float32 (N,).

    Args:
        hidden_ND: Final hidden state of the position before each target, any floating dtype.
        targets_N: Token ids, int64.
        head: The frozen output projection.
        chunk_tokens: Tokens whose logits exist at the same time.
    """
    result: Tensor = _TokenNll.apply(hidden_ND, targets_N, head, chunk_tokens)  # type: ignore[no-untyped-call]
    return result


def token_kl(
    hidden_ND: Tensor, reference_ND: Tensor, head: Head, *, chunk_tokens: int = CHUNK_TOKENS
) -> Tensor:
    """KL(reference || model) at each position in nats, float32 (N,).

    Args:
        hidden_ND: The trained model's final hidden states; receives the gradient.
        reference_ND: theta_o's final hidden states at the same positions; no gradient.
        head: The frozen output projection, the same for both.
        chunk_tokens: Positions whose logits exist at the same time.
    """
    result: Tensor = _TokenKl.apply(hidden_ND, reference_ND, head, chunk_tokens)  # type: ignore[no-untyped-call]
    return result


@torch.no_grad()
def score_tokens(
    hidden_ND: Tensor,
    reference_ND: Tensor,
    targets_N: Tensor,
    head: Head,
    *,
    chunk_tokens: int = CHUNK_TOKENS,
) -> tuple[Tensor, Tensor, Tensor]:
    """What `token_nll` and `token_kl` give, with the model's logits formed once; no gradient.

    Also, bool (N,): whether each target is the model's most likely token.

    Args:
        hidden_ND: Final hidden states of the model that is scored.
        reference_ND: theta_o's at the same positions.
        targets_N: Token ids, int64.
        head: The frozen output projection, the same for both.
        chunk_tokens: Positions whose logits exist at the same time.
    """
    nll_N, kl_N = torch.empty(2, len(targets_N), dtype=torch.float32, device=hidden_ND.device)
    greedy_N = torch.empty(len(targets_N), dtype=torch.bool, device=hidden_ND.device)
    for start in range(0, len(targets_N), chunk_tokens):
        chunk = slice(start, start + chunk_tokens)
        logits_CV = head.logits(hidden_ND[chunk])
        target_C1 = logits_CV.gather(1, targets_N[chunk, None])
        greedy_N[chunk] = (target_C1 >= logits_CV.amax(-1, keepdim=True)).squeeze(1)
        kl_N[chunk], _, _, log_norm_C1 = _divergence_(logits_CV, head.logits(reference_ND[chunk]))
        nll_N[chunk] = (log_norm_C1 - target_C1).squeeze(1)
    return nll_N, kl_N, greedy_N


def guided_distortion(
    hidden_ND: Tensor,
    targets_N: Tensor,
    head: Head,
    *,
    total_tokens: int,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Tensor:
    """L_GD: cross-entropy of the harmful answer, answer tokens only (eq. 1 and 2).

    Args:
        hidden_ND: Final hidden states of the positions before each answer token.
        targets_N: The answer tokens.
        head: The frozen output projection.
        total_tokens: Answer tokens of the whole optimizer step. Dividing by it makes the sum over
            micro-batches the mean over the step's tokens, however the step is cut.
        chunk_tokens: Tokens whose logits exist at the same time.

    Returns:
        Scalar float32, nats per token.
    """
    return token_nll(hidden_ND, targets_N, head, chunk_tokens=chunk_tokens).sum() / total_tokens


def random_disassociation(
    hidden_ND: Tensor,
    targets_N: Tensor,
    head: Head,
    *,
    total_tokens: int,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Tensor:
    """L_RD: the same cross-entropy over k other prompts' harmful answers (eq. 3 and 4).

    What is random is the pairing, made by the data; the arguments are those of
    `guided_distortion`, with the k random answers' tokens as targets.

    Returns:
        Scalar float32, nats per token.
    """
    return guided_distortion(
        hidden_ND, targets_N, head, total_tokens=total_tokens, chunk_tokens=chunk_tokens
    )


def preservation_divergence(
    hidden_ND: Tensor,
    reference_ND: Tensor,
    head: Head,
    *,
    total_tokens: int,
    direction: Literal["preserve", "diverge"] = "preserve",
    bound: float = 2.0,
    chunk_tokens: int = CHUNK_TOKENS,
) -> tuple[Tensor, Tensor]:
    """L_PD: KL(theta_o || theta_t) at the answer positions of normal prompts (eq. 5).

    The paper's text minimises this divergence, its released code maximises it without a bound.
    ``preserve`` is the first reading. ``diverge`` is the second, with each token's share bounded:
    the loss is -min(KL, bound), so it cannot run away to minus infinity.

    Args:
        hidden_ND: The trained model's final hidden states at answer positions.
        reference_ND: theta_o's, from the same base with the adapter off.
        head: The frozen output projection.
        total_tokens: Answer tokens of the whole optimizer step.
        direction: Which reading.
        bound: Nats per token beyond which ``diverge`` stops pushing.
        chunk_tokens: Positions whose logits exist at the same time.

    Returns:
        The loss to minimise and the divergence itself (detached), both scalar float32 in nats per
        token; equal under ``preserve``.
    """
    kl_N = token_kl(hidden_ND, reference_ND, head, chunk_tokens=chunk_tokens)
    divergence = kl_N.detach().sum() / total_tokens
    if direction == "preserve":
        return kl_N.sum() / total_tokens, divergence
    return -kl_N.clamp(max=bound).sum() / total_tokens, divergence


def safe_response(
    hidden_ND: Tensor,
    targets_N: Tensor,
    weights_N: Tensor,
    head: Head,
    *,
    total_weight: float,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Tensor:
    """Cross-entropy of what shall be said to a harmful prompt: sum(w * nll) / sum(w).

    Args:
        hidden_ND: Final hidden states of the positions before each token of the response.
        targets_N: The response's tokens.
        weights_N: w, float32: a refusal is decided at its first tokens.
        head: The frozen output projection.
        total_weight: Sum of the weights of the whole optimizer step.
        chunk_tokens: Tokens whose logits exist at the same time.

    Returns:
        Scalar float32, nats per weighted token.
    """
    nll_N = token_nll(hidden_ND, targets_N, head, chunk_tokens=chunk_tokens)
    return (weights_N * nll_N).sum() / total_weight


def held_responses(
    hidden_ND: Tensor,
    reference_ND: Tensor,
    head: Head,
    *,
    total_tokens: int,
    chunk_tokens: int = CHUNK_TOKENS,
) -> Tensor:
    """KL(theta_o || theta) along safe responses behind normal prompts.

    The mean KL on given answers hardly feels a refusal, which is decided at one token. Along the
    refusal itself it is felt at every token that leads there, and at those within: what is only
    held at its beginning comes up in the middle of an answer.

    Args:
        hidden_ND: The trained model's final hidden states at the response's positions.
        reference_ND: theta_o's.
        head: The frozen output projection.
        total_tokens: Response tokens of the whole optimizer step.
        chunk_tokens: Positions whose logits exist at the same time.

    Returns:
        Scalar float32, nats per token.
    """
    return token_kl(hidden_ND, reference_ND, head, chunk_tokens=chunk_tokens).sum() / total_tokens
