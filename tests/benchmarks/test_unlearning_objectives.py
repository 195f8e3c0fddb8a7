"""The rivals' objectives: their gradients are those of the plainly written losses."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bench_tools import DRAWS
from tiny import adapt, load, make_encoder, teach
from torch import Tensor
from torch.nn import functional

from benchmarks.unlearning_objectives import (
    AnswerTerm,
    Objective,
    ObjectiveGradients,
    harmful,
    mismatched,
    normal,
    npo_weights,
)
from lora_sku.data import Pair
from lora_sku.model import AdaptedModel
from lora_sku.step import StepLosses

DRAW = DRAWS[0]
BETA = 0.1


@pytest.fixture
def model(tiny_llama: Path) -> AdaptedModel:
    adapted = adapt(load(tiny_llama))
    teach(adapted, std=0.1)
    return adapted


def gradients_of(model: AdaptedModel, compute: Callable[[], object]) -> dict[str, Tensor]:
    parameters = model.trained_parameters()
    for parameter in parameters.values():
        parameter.grad = None
    compute()
    return {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}


def accumulate(
    model: AdaptedModel, objective: Objective, size: int
) -> tuple[StepLosses, dict[str, Tensor]]:
    step = ObjectiveGradients(
        model, make_encoder(model.base), objective, size, torch.Tensor.backward
    )
    told: list[StepLosses] = []
    gradients = gradients_of(model, lambda: told.append(step.accumulate(DRAW)))
    return told[0], gradients


def log_probabilities(model: AdaptedModel, pair: Pair) -> tuple[Tensor, Tensor]:
    """Of each answer token, and of every token at its place, by the model's own head."""
    encoded = make_encoder(model.base).encode(*pair)
    ids = torch.tensor([encoded.input_ids])
    logits = model.base.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    log_p = functional.log_softmax(logits, -1)[encoded.prompt_length - 1 :]
    return log_p.gather(1, ids[0, encoded.prompt_length :, None]).squeeze(1), log_p


def nlls(model: AdaptedModel, pairs: list[Pair]) -> list[Tensor]:
    return [-log_probabilities(model, pair)[0].sum() for pair in pairs]


def tokens_of(model: AdaptedModel, pairs: list[Pair]) -> int:
    encoder = make_encoder(model.base)
    return sum(encoder.encode(*pair).answer_length for pair in pairs)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert found
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(found[name], gradient, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2])
def test_ascent_with_mismatched_answers_and_kl_is_the_plain_loss(
    model: AdaptedModel, size: int
) -> None:
    objective = Objective((AnswerTerm(harmful, -0.5), AnswerTerm(mismatched, 1.0)), preserve=2.0)
    own, wrong, kept = list(DRAW.forget), list(mismatched(DRAW)), list(DRAW.retain)
    assert wrong == [("How?", "White."), ("Why is that so?", "It is black.")]

    def plain() -> Tensor:
        divergence = torch.zeros(())
        for pair in kept:
            with torch.no_grad(), model.reference_mode():
                reference = log_probabilities(model, pair)[1]
            log_p = log_probabilities(model, pair)[1]
            divergence = divergence + (reference.exp() * (reference - log_p)).sum()
        ascent = -0.5 * torch.stack(nlls(model, own)).sum() / tokens_of(model, own)
        descent = torch.stack(nlls(model, wrong)).sum() / tokens_of(model, wrong)
        return ascent + descent + 2.0 * divergence / tokens_of(model, kept)

    told, found = accumulate(model, objective, size)
    assert_same(found, gradients_of(model, lambda: plain().backward()))
    assert told.loss == pytest.approx(float(plain().detach()), rel=1e-4)
    assert told.answer_tokens == sum(tokens_of(model, pairs) for pairs in (own, wrong, kept))
    assert told.terms() == {}  # or the loop would take a successful ascent for a collapse


@pytest.mark.parametrize("by_answer", [False, True])
@pytest.mark.parametrize("size", [1, 2])
def test_npo_has_the_gradient_of_its_published_loss(
    model: AdaptedModel, size: int, by_answer: bool
) -> None:
    pairs = list(DRAW.forget)
    with torch.no_grad(), model.reference_mode():
        reference = nlls(model, pairs)

    def published() -> Tensor:
        losses = [
            -2 / BETA * functional.logsigmoid(-BETA * (before - now))
            for now, before in zip(nlls(model, pairs), reference, strict=True)
        ]
        return torch.stack(losses).sum() / (len(pairs) if by_answer else tokens_of(model, pairs))

    _, found = accumulate(model, Objective((AnswerTerm(harmful, -1.0, BETA, by_answer),)), size)
    assert_same(found, gradients_of(model, lambda: published().backward()))


def test_npo_lets_go_of_what_is_forgotten() -> None:
    weights = npo_weights(torch.tensor([0.0, -20.0, -100.0]), BETA)
    expected = [1.0, 2 * 0.1353 / 1.1353, 2 * 4.54e-5]  # 2 r / (r + 1) with r = (pi / pi_ref)^beta
    torch.testing.assert_close(weights, torch.tensor(expected), rtol=1e-3, atol=1e-7)


def test_ascent_raises_the_likelihood_loss_that_descent_lowers(model: AdaptedModel) -> None:
    up, ascending = accumulate(model, Objective((AnswerTerm(harmful, -1.0),)), 2)
    down, descending = accumulate(model, Objective((AnswerTerm(harmful, 1.0),)), 2)
    assert up.loss == pytest.approx(-down.loss)
    for name, gradient in ascending.items():
        torch.testing.assert_close(gradient, -descending[name])
    assert normal(DRAW) == DRAW.retain
