"""theta_o's hidden states, kept on disk."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import adapt, load, make_encoder, teach
from torch import Tensor

from lora_sku.data import Batch, Encoded, pack
from lora_sku.model import AdaptedModel
from lora_sku.reference_states import ReferenceStates

PAIRS = (("What colour is snow?", "White."), ("And coal?", "It is black."), ("Mud?", "Brown"))


@pytest.fixture
def model(tiny_llama: Path) -> AdaptedModel:
    adapted = adapt(load(tiny_llama))
    teach(adapted, std=0.2)
    return adapted


@pytest.fixture
def pairs(model: AdaptedModel) -> list[Encoded]:
    encoder = make_encoder(model.base)
    return [encoder.encode(*pair) for pair in PAIRS]


def batch_of(pairs: list[Encoded]) -> Batch:
    return pack([[pair] for pair in pairs])


def expected(model: AdaptedModel, pairs: list[Encoded]) -> Tensor:
    with torch.no_grad(), model.reference_mode():
        return model.answer_states(batch_of(pairs))


@pytest.fixture
def passes(model: AdaptedModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of every pass of the model."""
    seen: list[int] = []
    answer_states: Callable[[Batch], Tensor] = model.answer_states
    monkeypatch.setattr(
        model,
        "answer_states",
        lambda batch: (seen.append(len(batch.targets)), answer_states(batch))[1],
    )
    return seen


def test_without_a_cache_they_are_computed_each_time(
    model: AdaptedModel, pairs: list[Encoded], passes: list[int]
) -> None:
    states = ReferenceStates(model, None)
    for _ in range(2):
        found_ND = states.of(pairs, batch_of(pairs))
        assert not found_ND.requires_grad
    assert len(passes) == 2
    assert torch.equal(found_ND, expected(model, pairs))


def test_what_was_kept_is_not_computed_again(
    model: AdaptedModel, pairs: list[Encoded], passes: list[int], tmp_path: Path
) -> None:
    first_ND = ReferenceStates(model, tmp_path).of(pairs, batch_of(pairs))
    assert len(passes) == 1
    # By another object, as a later run has, and in another order and company.
    for chosen in (pairs, pairs[::-1], pairs[1:]):
        again_ND = ReferenceStates(model, tmp_path).of(chosen, batch_of(chosen))
        torch.testing.assert_close(again_ND, expected(model, chosen), rtol=1e-4, atol=1e-5)
    assert torch.equal(ReferenceStates(model, tmp_path).of(pairs, batch_of(pairs)), first_ND)
    assert len(passes) == 1 + 3  # `expected` above, and nothing else


def test_a_batch_with_one_new_pair_is_computed_whole(
    model: AdaptedModel, pairs: list[Encoded], passes: list[int], tmp_path: Path
) -> None:
    states = ReferenceStates(model, tmp_path)
    states.of(pairs[:1], batch_of(pairs[:1]))
    states.of(pairs, batch_of(pairs))
    assert passes == [pairs[0].answer_length, sum(pair.answer_length for pair in pairs)]


def test_each_base_has_its_own(
    model: AdaptedModel, pairs: list[Encoded], passes: list[int], tmp_path: Path
) -> None:
    for base in (
        model.base,
        replace(model.base, fingerprint="0" * 64),
        replace(model.base, quantization="nf4"),
        replace(model.base, compute_dtype=torch.bfloat16),
    ):
        model.base = base
        ReferenceStates(model, tmp_path).of(pairs, batch_of(pairs))
    assert len(passes) == 4


@pytest.mark.parametrize("layers", [None, (1,)])
@pytest.mark.parametrize("kept", [False, True])
def test_beside_the_models_states_they_are_the_same(
    tiny_llama: Path,
    pairs: list[Encoded],
    layers: tuple[int, ...] | None,
    kept: bool,
    tmp_path: Path,
) -> None:
    model = adapt(load(tiny_llama), layers_to_transform=layers)
    teach(model, std=0.2)
    states = ReferenceStates(model, tmp_path if kept else None)
    batch = batch_of(pairs)
    alone_ND = model.answer_states(batch)
    for _ in range(2):  # computed, then read
        states_ND, reference_ND = states.beside(pairs, batch)
        assert torch.equal(states_ND, alone_ND)
        assert states_ND.requires_grad
        assert torch.equal(reference_ND, expected(model, pairs))
        assert not reference_ND.requires_grad
    assert not torch.allclose(states_ND, reference_ND, atol=1e-2)


def test_the_same_tokens_with_another_border_are_another_pair(
    model: AdaptedModel, pairs: list[Encoded], passes: list[int], tmp_path: Path
) -> None:
    states = ReferenceStates(model, tmp_path)
    for prompt_length in (pairs[0].prompt_length, pairs[0].prompt_length - 1):
        pair = replace(pairs[0], prompt_length=prompt_length)
        assert len(states.of([pair], batch_of([pair]))) == pair.answer_length
    begun = replace(pairs[0], begun=1)
    assert len(states.of([begun], batch_of([begun]))) == pairs[0].answer_length - 1
    assert len(passes) == 3
