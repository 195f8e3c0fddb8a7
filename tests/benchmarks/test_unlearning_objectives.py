"""The rivals' objectives: values and gradients are those of the plainly written losses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench_tools import DRAWS
from tiny import adapt, load, make_encoder, teach
from torch import Tensor
from torch.nn import functional

from benchmarks.unlearning_objectives import (
    DPO,
    NPO,
    OBJECTIVES,
    GradientAscent,
    Retain,
    Rival,
    objective,
)
from lora_sku.base_checks import Packing
from lora_sku.data import Response
from lora_sku.model import NEGATED, AdaptedModel
from lora_sku.step import StepLosses

# More normal prompts than harmful ones, and a harmful answer that has begun, as a step may draw.
DRAW = replace(
    DRAWS[0],
    normal=DRAWS[0].normal + DRAWS[1].normal,
    safe=(DRAWS[0].safe[0], (*DRAWS[0].safe[1], "Because")),
)
BETA = 0.1
NONE = Retain("kl", 0.0)


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
    model: AdaptedModel, kind: type[Rival], retain: Retain, size: int
) -> tuple[StepLosses, dict[str, Tensor]]:
    make = objective(kind, retain)(model, make_encoder(model.base))
    step = make(torch.Tensor.backward, size)
    assert step.micro_batch_prompts == size
    told: list[StepLosses] = []
    gradients = gradients_of(model, lambda: told.append(step.accumulate(DRAW)))
    return told[0], gradients


def log_probabilities(model: AdaptedModel, pair: Response) -> tuple[Tensor, Tensor]:
    """Of each answer token, and of every token at its place, by the model's own head."""
    encoded = make_encoder(model.base).encode(*pair)
    ids = torch.tensor([encoded.input_ids])
    logits = model.base.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    log_p = functional.log_softmax(logits, -1)[encoded.given_length - 1 :]
    return log_p.gather(1, ids[0, encoded.given_length :, None]).squeeze(1), log_p


def log_ratio(model: AdaptedModel, pair: Response) -> Tensor:
    """log(p_theta / p_ref) of a whole answer."""
    with torch.no_grad(), model.reference_mode():
        reference = log_probabilities(model, pair)[0].sum()
    return log_probabilities(model, pair)[0].sum() - reference


def npo(model: AdaptedModel) -> Tensor:
    ratios = torch.stack([log_ratio(model, pair) for pair in DRAW.forget])
    return -2 / BETA * functional.logsigmoid(-BETA * ratios).mean()


def dpo(model: AdaptedModel) -> Tensor:
    margins = [
        log_ratio(model, safe) - log_ratio(model, harmful)
        for safe, harmful in zip(DRAW.safe, DRAW.forget, strict=True)
    ]
    return -functional.logsigmoid(BETA * torch.stack(margins)).mean()


def ascent(model: AdaptedModel) -> Tensor:
    return torch.cat([log_probabilities(model, pair)[0] for pair in DRAW.forget]).mean()


def retained(model: AdaptedModel, kind: str) -> Tensor:
    """Mean over the tokens of normal answers."""
    if kind == "nll":
        return -torch.cat([log_probabilities(model, pair)[0] for pair in DRAW.normal]).mean()
    with torch.no_grad(), model.reference_mode():
        reference = torch.cat([log_probabilities(model, pair)[1] for pair in DRAW.normal])
    log_p = torch.cat([log_probabilities(model, pair)[1] for pair in DRAW.normal])
    return (reference.exp() * (reference - log_p)).sum(-1).mean()


PLAIN = {NPO: npo, DPO: dpo, GradientAscent: ascent}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert found
    for name, gradient in expected.items():
        scale = float(gradient.abs().max())
        assert scale > 0
        torch.testing.assert_close(found[name], gradient, rtol=2e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("retain", [NONE, Retain("nll", 0.5), Retain("kl", 2.0)], ids=str)
@pytest.mark.parametrize("kind", PLAIN)
def test_values_and_gradients_are_those_of_the_plain_loss_on_what_ships(
    model: AdaptedModel, kind: type[Rival], retain: Retain, size: int, packed: bool
) -> None:
    values: list[float] = []

    def plain() -> None:
        with model.on(NEGATED):
            loss = PLAIN[kind](model)
            if retain.weight > 0:
                loss = loss + retain.weight * retained(model, retain.kind)
            loss.backward()
        values.append(float(loss.detach()))

    expected = gradients_of(model, plain)
    if not packed:
        base = replace(model.base, packing=Packing("not this one"))
        model = AdaptedModel(base, model.peft_model)
    told, found = accumulate(model, kind, retain, size)
    assert_same(found, expected)
    assert told.loss == pytest.approx(values[0], rel=1e-4)
    assert told.terms == {}  # or the loop would take a successful ascent for a collapse


def test_every_supervised_token_is_counted(model: AdaptedModel) -> None:
    encoder = make_encoder(model.base)

    def tokens(*pairs: Response) -> int:
        return sum(encoder.encode(*pair).answer_length for pair in pairs)

    told, _ = accumulate(model, DPO, Retain("kl", 1.0), 2)
    assert told.answer_tokens == tokens(*DRAW.safe, *DRAW.forget, *DRAW.normal)
    assert accumulate(model, NPO, NONE, 2)[0].answer_tokens == tokens(*DRAW.forget)


def test_npo_is_ascent_at_first_and_lets_go_of_what_is_forgotten(model: AdaptedModel) -> None:
    def kept() -> float:
        """How much of the ascent is left, at 2 sigmoid(beta log(p / p_ref)) of each answer."""
        (told, npos), (_, ascents) = (accumulate(model, k, NONE, 2) for k in (NPO, GradientAscent))
        tokens = told.answer_tokens / len(DRAW.forget)  # the ascent's mean is over tokens
        name = max(ascents, key=lambda n: float(ascents[n].norm()))
        return float(npos[name].norm() / (tokens * ascents[name].norm()))

    teach(model, std=0.0)
    assert kept() == pytest.approx(1.0, rel=1e-3)
    for _ in range(30):
        _, ascents = accumulate(model, GradientAscent, NONE, 2)
        with torch.no_grad():
            for name, parameter in model.trained_parameters().items():
                parameter -= 0.05 * ascents[name].sign()
    assert kept() < 0.1


def test_the_compared_objectives_train(model: AdaptedModel) -> None:
    assert list(OBJECTIVES) == ["npo", "dpo", "ga"]
    for make in OBJECTIVES.values():
        step = make(model, make_encoder(model.base))(torch.Tensor.backward, 2)
        found = gradients_of(model, lambda step=step: step.accumulate(DRAW))  # type: ignore[misc]
        assert any(float(gradient.abs().max()) > 0 for gradient in found.values())


def test_the_face_is_put_back(model: AdaptedModel) -> None:
    before = [dict(layer.scaling) for layer in model.adapted_layers]
    accumulate(model, DPO, Retain("kl", 1.0), 1)
    assert [dict(layer.scaling) for layer in model.adapted_layers] == before
