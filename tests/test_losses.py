"""The losses: hand-worked cases, and chunked against plain in value and gradient."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from lora_sku.head import Head
from lora_sku.losses import (
    guided_distortion,
    held_responses,
    preservation_divergence,
    random_disassociation,
    safe_response,
    score_tokens,
    token_kl,
    token_nll,
)

# Logits (ln 3, 0) are the probabilities (3/4, 1/4); logits (0, 0) are (1/2, 1/2).
TWO_WORDS = Head(torch.eye(2))
SURE = [math.log(3), 0.0]
UNSURE = [0.0, 0.0]
KL_SURE_UNSURE = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)

SHAPES_NDV = [(1, 1, 2), (7, 5, 11), (10, 8, 33)]
CHUNKS = [1, 3, 7, 1000]
HEADS = ["plain", "bias", "scale", "softcap", "everything"]
DTYPES = [torch.float32, torch.bfloat16]
# Relative to the largest entry; bf16 keeps 8 bits, and products of other sizes round differently.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1.2e-2}


def make_head(kind: str, d: int, v: int, dtype: torch.dtype) -> Head:
    weight_VD = torch.randn(v, d).to(dtype)
    everything = kind == "everything"
    return Head(
        weight_VD,
        bias_V=torch.randn(v).to(dtype) if everything or kind == "bias" else None,
        scale=0.3 if everything or kind == "scale" else 1.0,
        softcap=1.5 if everything or kind == "softcap" else None,
    )


def plain_logits(hidden_ND: Tensor, head: Head) -> Tensor:
    logits_NV = functional.linear(hidden_ND, head.weight_VD, head.bias_V).float() * head.scale
    return logits_NV if head.softcap is None else head.softcap * (logits_NV / head.softcap).tanh()


def plain_nll(hidden_ND: Tensor, targets_N: Tensor, head: Head) -> Tensor:
    return functional.cross_entropy(plain_logits(hidden_ND, head), targets_N, reduction="none")


def plain_kl(hidden_ND: Tensor, reference_ND: Tensor, head: Head) -> Tensor:
    log_p_NV = plain_logits(hidden_ND, head).log_softmax(-1)
    log_reference_NV = plain_logits(reference_ND, head).log_softmax(-1)
    return functional.kl_div(log_p_NV, log_reference_NV, log_target=True, reduction="none").sum(-1)


def value_and_grad(
    loss_of: Callable[[Tensor], Tensor], hidden_ND: Tensor, weights_N: Tensor
) -> tuple[Tensor, Tensor]:
    """The tokens' losses, and the gradient when each token has its own upstream gradient."""
    leaf_ND = hidden_ND.clone().requires_grad_()
    losses_N = loss_of(leaf_ND)
    (losses_N * weights_N).sum().backward()
    assert leaf_ND.grad is not None
    return losses_N.detach(), leaf_ND.grad


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    error = (actual.float() - expected.float()).abs().max()
    assert error <= tolerance * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("chunk_tokens", CHUNKS)
@pytest.mark.parametrize("shape_NDV", SHAPES_NDV, ids=str)
def test_chunked_equals_plain_in_value_and_gradient(
    shape_NDV: tuple[int, int, int], chunk_tokens: int, kind: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    n, d, v = shape_NDV
    head = make_head(kind, d, v, dtype)
    hidden_ND, reference_ND = torch.randn(n, d).to(dtype), torch.randn(n, d).to(dtype)
    targets_N, upstream_N = torch.randint(v, (n,)), torch.linspace(-2.0, 3.0, n)

    def chunked_nll(h: Tensor) -> Tensor:
        return token_nll(h, targets_N, head, chunk_tokens=chunk_tokens)

    def chunked_kl(h: Tensor) -> Tensor:
        return token_kl(h, reference_ND, head, chunk_tokens=chunk_tokens)

    pairs: list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
        (chunked_nll, lambda h: plain_nll(h, targets_N, head)),
        (chunked_kl, lambda h: plain_kl(h, reference_ND, head)),
    ]
    for chunked, plain in pairs:
        value, grad = value_and_grad(chunked, hidden_ND, upstream_N)
        expected_value, expected_grad = value_and_grad(plain, hidden_ND, upstream_N)
        assert value.dtype == torch.float32
        assert grad.dtype == dtype
        assert_near(value, expected_value, TOLERANCE[dtype])
        assert_near(grad, expected_grad, TOLERANCE[dtype])


@dataclass(frozen=True)
class WatchedHead(Head):
    """Notes how many tokens' logits are asked for at a time."""

    seen: list[int] = field(default_factory=list)

    def logits(self, hidden_CD: Tensor) -> Tensor:
        self.seen.append(len(hidden_CD))
        return super().logits(hidden_CD)


def test_no_more_than_a_chunk_of_logits_exists_at_a_time() -> None:
    head = WatchedHead(torch.randn(5, 4))
    hidden_ND = torch.randn(8, 4, requires_grad=True)
    token_nll(hidden_ND, torch.zeros(8, dtype=torch.int64), head, chunk_tokens=3).sum().backward()
    assert head.seen == [3, 3, 2]
    token_kl(hidden_ND, torch.randn(8, 4), head, chunk_tokens=3).sum().backward()
    assert head.seen[3:] == [3, 3, 3, 3, 2, 2]
    head.seen.clear()
    score_tokens(hidden_ND, hidden_ND, torch.zeros(8, dtype=torch.int64), head, chunk_tokens=3)
    assert head.seen == [3, 3, 3, 3, 2, 2]


def test_the_losses_pass_their_chunk_size_on() -> None:
    hidden_ND, targets_N = torch.randn(6, 4), torch.zeros(6, dtype=torch.int64)
    for loss in (guided_distortion, random_disassociation):
        head = WatchedHead(torch.randn(5, 4))
        loss(hidden_ND, targets_N, head, total_tokens=6, chunk_tokens=2)
        assert head.seen == [2, 2, 2]
    head = WatchedHead(torch.randn(5, 4))
    safe_response(hidden_ND, targets_N, torch.ones(6), head, total_weight=6, chunk_tokens=2)
    assert head.seen == [2, 2, 2]
    head = WatchedHead(torch.randn(5, 4))
    preservation_divergence(hidden_ND, hidden_ND, head, total_tokens=6, chunk_tokens=4)
    held_responses(hidden_ND, hidden_ND, head, total_tokens=6, chunk_tokens=4)
    assert head.seen == [4, 4, 2, 2] * 2


def test_values_come_without_gradients_where_none_are_wanted() -> None:
    hidden_ND, targets_N = torch.tensor([SURE, UNSURE]), torch.tensor([1, 0])
    assert not token_nll(hidden_ND, targets_N, TWO_WORDS).requires_grad
    with torch.no_grad():
        kl_N = token_kl(hidden_ND.requires_grad_(), torch.tensor([SURE, SURE]), TWO_WORDS)
    assert not kl_N.requires_grad
    assert kl_N.tolist() == pytest.approx([0.0, KL_SURE_UNSURE])


def test_a_bf16_head_takes_fp32_hidden_states() -> None:
    torch.manual_seed(0)
    head = make_head("bias", 5, 11, torch.bfloat16)
    hidden_ND, targets_N = torch.randn(4, 5, requires_grad=True), torch.tensor([0, 3, 10, 7])
    token_nll(hidden_ND, targets_N, head).sum().backward()
    assert hidden_ND.grad is not None
    assert hidden_ND.grad.dtype == torch.float32


# Guided distortion


def test_guided_distortion_worked_by_hand() -> None:
    hidden_ND = torch.tensor([SURE, SURE], requires_grad=True)
    loss = guided_distortion(hidden_ND, torch.tensor([0, 1]), TWO_WORDS, total_tokens=2)
    loss.backward()
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)
    # (p - onehot) / 2
    assert hidden_ND.grad is not None
    assert hidden_ND.grad.tolist() == [
        pytest.approx([-0.125, 0.125]),
        pytest.approx([0.375, -0.375]),
    ]


# Random disassociation


def test_random_disassociation_worked_by_hand() -> None:
    # k = 2 random answers of 1 and 2 tokens for one prompt: the mean over all three tokens.
    hidden_ND = torch.tensor([UNSURE, SURE, SURE], requires_grad=True)
    loss = random_disassociation(hidden_ND, torch.tensor([0, 0, 1]), TWO_WORDS, total_tokens=3)
    loss.backward()
    assert loss.item() == pytest.approx((math.log(2) + math.log(4 / 3) + math.log(4)) / 3)
    assert hidden_ND.grad is not None
    assert (3 * hidden_ND.grad).tolist() == [
        pytest.approx([-0.5, 0.5]),
        pytest.approx([-0.25, 0.25]),
        pytest.approx([0.75, -0.75]),
    ]


@pytest.mark.parametrize("loss", [guided_distortion, random_disassociation])
def test_micro_batches_add_up_to_the_mean_over_the_step(loss: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    hidden_ND, targets_N, head = torch.randn(5, 4), torch.randint(7, (5,)), Head(torch.randn(7, 4))
    parts = [
        loss(hidden_ND[s], targets_N[s], head, total_tokens=5) for s in (slice(2), slice(2, 5))
    ]
    assert sum(part.item() for part in parts) == pytest.approx(
        plain_nll(hidden_ND, targets_N, head).mean().item()
    )


# Preservation divergence


def test_preservation_divergence_worked_by_hand() -> None:
    hidden_ND = torch.tensor([UNSURE, SURE], requires_grad=True)
    reference_ND = torch.tensor([SURE, SURE], requires_grad=True)
    loss, divergence = preservation_divergence(hidden_ND, reference_ND, TWO_WORDS, total_tokens=2)
    loss.backward()
    assert loss.item() == pytest.approx(KL_SURE_UNSURE / 2)
    assert divergence.item() == loss.item()
    assert not divergence.requires_grad
    # (p - reference) / 2: towards the reference when it is minimised
    assert hidden_ND.grad is not None
    assert hidden_ND.grad.tolist() == [pytest.approx([-0.125, 0.125]), pytest.approx([0.0, 0.0])]
    assert reference_ND.grad is None


def test_the_divergence_is_the_kl_from_the_reference_not_to_it() -> None:
    _, divergence = preservation_divergence(
        torch.tensor([SURE]), torch.tensor([UNSURE]), TWO_WORDS, total_tokens=1
    )
    reverse = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert divergence.item() == pytest.approx(reverse)
    assert abs(reverse - KL_SURE_UNSURE) > 0.01


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("direction", ["preserve", "diverge"])
def test_at_theta_o_value_and_gradient_are_exactly_zero(
    direction: str, kind: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    head = make_head(kind, 5, 11, dtype)
    hidden_ND = torch.randn(9, 5).to(dtype).requires_grad_()
    loss, divergence = preservation_divergence(
        hidden_ND,
        hidden_ND.detach().clone(),
        head,
        total_tokens=9,
        direction=direction,  # type: ignore[arg-type]
        chunk_tokens=4,
    )
    loss.backward()
    assert loss.item() == 0
    assert divergence.item() == 0
    assert hidden_ND.grad is not None
    assert not hidden_ND.grad.any()


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("chunk_tokens", CHUNKS)
def test_all_scores_at_once_are_what_each_is_alone(chunk_tokens: int, kind: str) -> None:
    torch.manual_seed(0)
    n, d, v = SHAPES_NDV[-1]
    head = make_head(kind, d, v, torch.bfloat16)
    hidden_ND, reference_ND = torch.randn(2, n, d).bfloat16()
    targets_N = torch.randint(v, (n,))
    likeliest_N = plain_logits(hidden_ND, head).argmax(-1)
    targets_N = torch.where(torch.arange(n) % 2 == 0, likeliest_N, targets_N)
    nll_N, kl_N, greedy_N = score_tokens(
        hidden_ND, reference_ND, targets_N, head, chunk_tokens=chunk_tokens
    )
    assert torch.equal(nll_N, token_nll(hidden_ND, targets_N, head, chunk_tokens=chunk_tokens))
    assert torch.equal(kl_N, token_kl(hidden_ND, reference_ND, head, chunk_tokens=chunk_tokens))
    assert greedy_N.dtype == torch.bool
    assert torch.equal(greedy_N, targets_N == likeliest_N)
    assert 0 < greedy_N.sum() < n


def test_scores_carry_no_gradient() -> None:
    hidden_ND = torch.tensor([SURE, UNSURE], requires_grad=True)
    told = score_tokens(hidden_ND, hidden_ND.detach(), torch.tensor([0, 1]), TWO_WORDS)
    assert not any(told_N.requires_grad for told_N in told)
    # One of two equally likely tokens may be the greedy one.
    assert told[2].tolist() == [True, True]
    assert score_tokens(hidden_ND, hidden_ND, torch.tensor([1, 0]), TWO_WORDS)[2].tolist() == [
        False,
        True,
    ]


def test_diverge_pushes_apart_inside_the_bound() -> None:
    hidden_ND = torch.tensor([UNSURE], requires_grad=True)
    loss, divergence = preservation_divergence(
        hidden_ND, torch.tensor([SURE]), TWO_WORDS, total_tokens=1, direction="diverge", bound=1.0
    )
    loss.backward()
    assert loss.item() == pytest.approx(-KL_SURE_UNSURE)
    assert divergence.item() == pytest.approx(KL_SURE_UNSURE)
    assert hidden_ND.grad is not None
    step_ND = hidden_ND.detach() - 0.1 * hidden_ND.grad
    assert token_kl(step_ND, torch.tensor([SURE]), TWO_WORDS).item() > KL_SURE_UNSURE


def test_diverge_is_bounded_token_by_token_and_stops_pushing_there() -> None:
    # The first token is far beyond the bound, the second inside it.
    hidden_ND = torch.tensor([[-50.0, 50.0], UNSURE], requires_grad=True)
    loss, divergence = preservation_divergence(
        hidden_ND,
        torch.tensor([SURE, SURE]),
        TWO_WORDS,
        total_tokens=2,
        direction="diverge",
        bound=1.5,
    )
    loss.backward()
    assert loss.item() == pytest.approx(-(1.5 + KL_SURE_UNSURE) / 2)
    assert divergence.item() > 30
    assert hidden_ND.grad is not None
    assert hidden_ND.grad[0].tolist() == [0.0, 0.0]
    assert hidden_ND.grad[1].tolist() == pytest.approx([0.125, -0.125])


def test_preservation_is_the_same_for_a_small_tau_and_its_negation() -> None:
    # Why 'preserve' survives the negation: the divergence is quadratic in tau at theta_o.
    torch.manual_seed(0)
    head, reference_ND, tau_ND = Head(torch.randn(7, 4)), torch.randn(3, 4), torch.randn(3, 4)
    there, back = (token_kl(reference_ND + s * tau_ND, reference_ND, head) for s in (0.01, -0.01))
    assert (there > 0).all()
    assert there.sum().item() == pytest.approx(back.sum().item(), rel=0.05)


# Safe and held responses


def test_safe_response_worked_by_hand() -> None:
    hidden_ND = torch.tensor([SURE, SURE, UNSURE], requires_grad=True)
    weights_N = torch.tensor([3.0, 3.0, 1.0])
    loss = safe_response(hidden_ND, torch.tensor([0, 1, 0]), weights_N, TWO_WORDS, total_weight=7.0)
    loss.backward()
    assert loss.item() == pytest.approx((3 * math.log(4 / 3) + 3 * math.log(4) + math.log(2)) / 7)
    # w (p - onehot) / 7
    assert hidden_ND.grad is not None
    assert (7 * hidden_ND.grad).tolist() == [
        pytest.approx([-0.75, 0.75]),
        pytest.approx([2.25, -2.25]),
        pytest.approx([-0.5, 0.5]),
    ]


def test_held_responses_worked_by_hand() -> None:
    hidden_ND = torch.tensor([UNSURE, UNSURE, SURE], requires_grad=True)
    reference_ND = torch.tensor([SURE, SURE, SURE], requires_grad=True)
    loss = held_responses(hidden_ND, reference_ND, TWO_WORDS, total_tokens=5)
    loss.backward()
    assert loss.item() == pytest.approx(2 * KL_SURE_UNSURE / 5)
    # (p - reference) / 5
    assert hidden_ND.grad is not None
    assert (5 * hidden_ND.grad).tolist() == [
        pytest.approx([-0.25, 0.25]),
        pytest.approx([-0.25, 0.25]),
        pytest.approx([0.0, 0.0]),
    ]
    assert reference_ND.grad is None


def test_their_micro_batches_add_up_to_the_mean_over_the_step() -> None:
    torch.manual_seed(0)
    hidden_ND, reference_ND = torch.randn(2, 5, 4)
    targets_N, head = torch.randint(7, (5,)), Head(torch.randn(7, 4))
    weights_N = torch.tensor([3.0, 3.0, 3.0, 1.0, 3.0])
    safe = held = 0.0
    for s in (slice(2), slice(2, 5)):
        part, w = hidden_ND[s], weights_N[s]
        safe += safe_response(part, targets_N[s], w, head, total_weight=13.0).item()
        held += held_responses(part, reference_ND[s], head, total_tokens=5).item()
    nll_N, kl_N = plain_nll(hidden_ND, targets_N, head), plain_kl(hidden_ND, reference_ND, head)
    assert safe == pytest.approx(float((weights_N * nll_N).sum() / 13))
    assert held == pytest.approx(float(kl_N.mean()))
