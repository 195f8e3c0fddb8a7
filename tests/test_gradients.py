"""Gradients of answers at theta_o: what plain autograd says, in any pieces."""

from pathlib import Path

import pytest
import torch
from tiny import RETAIN, adapt, load, make_encoder, teach
from torch import Tensor

from lora_sku.data import Batch, collate
from lora_sku.errors import TrainingError
from lora_sku.gradients import AnswerGradients
from lora_sku.losses import token_nll
from lora_sku.model import ACQUIRED, AdaptedModel

PAIRS = [(prompt, answers[0]) for prompt, answers in RETAIN.items()][:5]


def gradients_of(model: AdaptedModel, *, pairs_at_once: int = 2) -> AnswerGradients:
    encoder = make_encoder(model.base)
    return AnswerGradients(model, ACQUIRED, encoder, pairs_at_once=pairs_at_once, where="here.key")


def flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


@pytest.fixture
def taught(tiny_llama: Path) -> AdaptedModel:
    model = adapt(load(tiny_llama))
    teach(model)
    return model


def test_the_mean_is_that_of_all_answer_tokens_at_theta_o(taught: AdaptedModel) -> None:
    gradients = gradients_of(taught)
    assert all(not factor.any() for factor in gradients.factors)  # B = 0 is theta_o
    found = gradients.mean(PAIRS)
    assert all(p.grad is None for p in taught.adapter_parameters().values())
    batch = collate([gradients.encoder.encode(*pair) for pair in PAIRS], pad_id=2)
    nll = token_nll(taught.answer_states(batch), batch.targets, taught.base.head).mean()
    expected = torch.autograd.grad(nll, gradients.factors)
    for piece, other in zip(found, expected, strict=True):
        torch.testing.assert_close(piece, other, rtol=1e-4, atol=1e-6)
    assert flat(found).norm() > 0
    assert gradients.answer_tokens == len(batch.targets)


def test_out_of_memory_halves_the_pieces_and_at_one_says_so(
    taught: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = flat(gradients_of(taught, pairs_at_once=8).mean(PAIRS))
    real, limit = AdaptedModel.answer_states, 50  # enough for two pairs, not for three

    def states(model: AdaptedModel, batch: Batch) -> Tensor:
        if batch.input_ids.numel() > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(model, batch)

    monkeypatch.setattr(AdaptedModel, "answer_states", states)
    told: list[tuple[int, int]] = []
    smaller = AnswerGradients(
        taught,
        ACQUIRED,
        make_encoder(taught.base),
        pairs_at_once=8,
        where="here.key",
        on_pairs=lambda *done: told.append(done),
    )
    torch.testing.assert_close(flat(smaller.mean(PAIRS)), expected, rtol=1e-4, atol=1e-6)
    assert told == [(2, 5), (4, 5), (5, 5)]
    limit = 1
    with pytest.raises(TrainingError, match="out of memory with a single answer") as caught:
        smaller.mean(PAIRS)
    assert caught.value.where == "here.key"


def test_another_error_is_not_taken_for_a_lack_of_memory(
    taught: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def states(model: AdaptedModel, batch: Batch) -> Tensor:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(AdaptedModel, "answer_states", states)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        gradients_of(taught).mean(PAIRS)


def test_dropout_does_not_blur_them(tiny_llama: Path) -> None:
    found = []
    for dropout in (0.0, 0.5):
        model = adapt(load(tiny_llama), lora_dropout=dropout)
        model.peft_model.train()
        found.append(flat(gradients_of(model).mean(PAIRS)))
    assert torch.equal(*found)
