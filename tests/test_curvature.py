"""KL's curvature: what its factors are made of, and what a divided step is good for."""

import math
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from tiny import RETAIN, adapt, load, make_encoder
from torch import Tensor

from lora_sku import curvature, projection
from lora_sku.acquisition import training_mode
from lora_sku.base_checks import Packing
from lora_sku.curvature import Draw, natural, sample_outputs
from lora_sku.data import collate
from lora_sku.errors import TrainingError
from lora_sku.gradients import AnswerGradients
from lora_sku.losses import drawn_targets, token_kl, token_nll
from lora_sku.model import ACQUIRED, AdaptedModel
from lora_sku.step import micro_batches

PAIRS = [(prompt, answers[0]) for prompt, answers in RETAIN.items()][:6]


def gradients_of(model: AdaptedModel, *, pairs_at_once: int = 4) -> AnswerGradients:
    encoder = make_encoder(model.base)
    return AnswerGradients(model, ACQUIRED, encoder, pairs_at_once=pairs_at_once, where="here")


def draw_of(gradients: AnswerGradients, tokens: int = 10**6, seed: int = 0) -> Draw:
    return Draw.of([gradients.encoder.encode(*pair) for pair in PAIRS], tokens, seed)


@pytest.fixture
def adapted(tiny_llama: Path) -> AdaptedModel:
    return adapt(load(tiny_llama))


def test_the_samples_are_gradients_of_the_models_own_answers(adapted: AdaptedModel) -> None:
    gradients = gradients_of(adapted)
    draw = draw_of(gradients)
    kept = sample_outputs(gradients, gradients.layers, draw)
    assert [layer for layer, _ in kept] == gradients.layers
    # By hand: the sum of s g (A x)^T over all positions is B's gradient.
    batch = collate(draw.encoded, pad_id=2)
    states_ND = adapted.answer_states(batch)
    targets_N = drawn_targets(states_ND.detach(), adapted.base.head, torch.cat(draw.uniform))
    nll = token_nll(states_ND, targets_N, adapted.base.head).sum()
    expected = torch.autograd.grad(nll, gradients.factors)
    for (layer, sample), expected_OR in zip(kept, expected, strict=True):
        found_OR = layer.scaling[ACQUIRED] * sample.gradient_PO.T @ sample.response_PR
        torch.testing.assert_close(found_OR, expected_OR, rtol=1e-3, atol=1e-4)
    assert not torch.equal(targets_N, batch.targets)


def test_given_answers_stand_where_others_are_drawn(adapted: AdaptedModel) -> None:
    gradients = gradients_of(adapted)
    encoded = [gradients.encoder.encode(*pair) for pair in PAIRS]
    draw = Draw.of(encoded, 10**6, 0, given=4)
    kept = sample_outputs(gradients, gradients.layers, draw)
    batch = collate(encoded, pad_id=2)
    states_ND = adapted.answer_states(batch)
    first = sum(pair.answer_length for pair in encoded[:2])
    uniform_N = torch.cat(draw.uniform)
    targets_N = drawn_targets(states_ND.detach(), adapted.base.head, uniform_N)
    assert not torch.equal(targets_N[:first], batch.targets[:first])
    assert not torch.equal(targets_N[first:], batch.targets[first:])
    targets_N[first:] = batch.targets[first:]
    nll = token_nll(states_ND, targets_N, adapted.base.head).sum()
    for (layer, sample), expected_OR in zip(
        kept, torch.autograd.grad(nll, gradients.factors), strict=True
    ):
        found_OR = layer.scaling[ACQUIRED] * sample.gradient_PO.T @ sample.response_PR
        torch.testing.assert_close(found_OR, expected_OR, rtol=1e-3, atol=1e-4)


def test_a_smaller_draw_is_some_of_all_positions(adapted: AdaptedModel) -> None:
    gradients = gradients_of(adapted)
    last = gradients.layers[-1:]
    ((_, everything),) = sample_outputs(gradients, last, draw_of(gradients))
    draw = draw_of(gradients, tokens=9)
    ((_, some),) = sample_outputs(gradients, last, draw)
    lengths = [len(pair.input_ids) - 1 for pair in draw.encoded]
    starts = [sum(lengths[:number]) for number in range(len(lengths))]
    chosen = torch.cat([p + start for p, start in zip(draw.places, starts, strict=True)])
    assert len(chosen) == 9
    torch.testing.assert_close(some.response_PR, everything.response_PR[chosen])
    torch.testing.assert_close(
        some.gradient_PO, everything.gradient_PO[chosen], atol=1e-6, rtol=1e-3
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_depends_on_what_shares_a_batch(adapted: AdaptedModel, checkpointing: bool) -> None:
    found = []
    for at_once in (1, 2, 6):
        with training_mode(adapted, checkpointing=checkpointing and at_once == 2):
            gradients = gradients_of(adapted, pairs_at_once=at_once)
            found.append(sample_outputs(gradients, gradients.layers, draw_of(gradients, 20)))
    for other in found[1:]:
        for (_, one), (_, two) in zip(found[0], other, strict=True):
            torch.testing.assert_close(one.response_PR, two.response_PR, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(one.gradient_PO, two.gradient_PO, rtol=1e-3, atol=1e-5)


def test_padded_rows_give_the_same_samples(adapted: AdaptedModel) -> None:
    found = []
    for refused in (None, "for this test"):
        object.__setattr__(adapted.base, "packing", Packing(refused))
        gradients = gradients_of(adapted)
        layouts = [
            batch.layout
            for _, batch in micro_batches(
                adapted, [[pair] for pair in draw_of(gradients).encoded], 4, pad_id=2
            )
        ]
        assert all((layout is None) == (refused is not None) for layout in layouts)
        found.append(sample_outputs(gradients, gradients.layers, draw_of(gradients, 20)))
    for (_, packed), (_, padded) in zip(*found, strict=True):
        torch.testing.assert_close(packed.response_PR, padded.response_PR, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(packed.gradient_PO, padded.gradient_PO, rtol=1e-3, atol=1e-5)


def test_groups_change_nothing(adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = gradients_of(adapted)
    vectors = [gradients.mean(PAIRS), [torch.ones_like(factor) for factor in gradients.factors]]
    keys = {"tokens": 30, "damping": 0.1, "seed": 0}
    whole = natural(gradients, PAIRS, vectors, **keys)
    monkeypatch.setattr(projection, "GROUP_BYTES", 1)
    single = natural(gradients, PAIRS, vectors, **keys)
    for one, other in zip(whole, single, strict=True):
        for piece, same in zip(one, other, strict=True):
            torch.testing.assert_close(piece, same, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(a, b) for a, b in zip(*whole, strict=True))


def test_the_gaps_of_every_division_are_handed_back(
    adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[str] = []
    monkeypatch.setattr(curvature, "release_free_memory", lambda: released.append("once"))
    gradients = gradients_of(adapted)
    natural(gradients, PAIRS, [gradients.factors], tokens=20, damping=0.1, seed=0)
    assert len(released) == len(gradients.layers)


def test_a_divided_step_gains_more_for_its_kl(adapted: AdaptedModel) -> None:
    """What the measure is for: the same slope for less KL than along the gradient itself."""
    gradients = gradients_of(adapted)
    slope = gradients.mean(PAIRS[:2])
    step = natural(gradients, PAIRS, [slope], tokens=1000, damping=0.1, seed=0)[0]
    encoded = [gradients.encoder.encode(*pair) for pair in PAIRS]
    batch = collate(encoded, pad_id=2)
    with torch.no_grad():
        reference_ND = adapted.answer_states(batch)

    def kl_for_a_slope_of_one(direction: list[Tensor]) -> float:
        rise = sum(float((a * b).sum()) for a, b in zip(slope, direction, strict=True))
        small = 1e-2
        gradients.write([piece * (small / rise) for piece in direction])
        with torch.no_grad():
            states_ND = adapted.answer_states(batch)
        return float(token_kl(states_ND, reference_ND, adapted.base.head).mean())

    assert kl_for_a_slope_of_one(step) < 0.7 * kl_for_a_slope_of_one(slope)


def test_the_draw_is_the_seeds_and_of_distinct_positions(adapted: AdaptedModel) -> None:
    gradients = gradients_of(adapted)
    one, same, other = (draw_of(gradients, 20, seed) for seed in (0, 0, 1))
    slots = torch.cat(one.slots)
    assert slots.tolist() == list(range(20))
    for places, pair in zip(one.places, one.encoded, strict=True):
        assert len(set(places.tolist())) == len(places)
        assert all(0 <= place < len(pair.input_ids) - 1 for place in places.tolist())
    assert all(torch.equal(a, b) for a, b in zip(one.places, same.places, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one.uniform, same.uniform, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.uniform, other.uniform, strict=True))
    everything = draw_of(gradients)
    assert everything.count == sum(len(pair.input_ids) - 1 for pair in everything.encoded)


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan])
def test_gradients_that_cannot_be_divided_by_are_refused(
    adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    def sampled(gradients: AnswerGradients, group: list[LoraLayer], draw: Draw) -> object:
        kept = sample_outputs(gradients, group, draw)
        kept[-1][1].gradient_PO.fill_(value)
        return kept

    monkeypatch.setattr(curvature, "sample_outputs", sampled)
    gradients = gradients_of(adapted)
    with pytest.raises(TrainingError, match="largest gradient at a layer's output"):
        natural(gradients, PAIRS, [gradients.factors], tokens=20, damping=0.1, seed=0)
