"""Greedy completions, whatever the batch."""

from pathlib import Path

import pytest
import torch
from tiny import adapt, load, make_encoder, teach

from lora_sku.generation import generate
from lora_sku.model import AdaptedModel

PROMPTS = ["Hi", "How do I spoil a cake?", "What is the colour of grass, snow and coal?", "Why?"]


@pytest.fixture
def model(tiny_llama: Path) -> AdaptedModel:
    model = adapt(load(tiny_llama))
    teach(model, std=0.3)
    model.peft_model.eval()
    return model


@pytest.fixture
def prompts(model: AdaptedModel) -> list[tuple[int, ...]]:
    encoder = make_encoder(model.base)
    return [encoder.prompt_ids(prompt)[0] for prompt in PROMPTS]


@torch.no_grad()
def greedily(model: AdaptedModel, prompt: tuple[int, ...], most: int) -> str:
    """One prompt, one token at a time, from the logits alone."""
    ids = list(prompt)
    for _ in range(most):
        logits = model.base.model(input_ids=torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == model.base.tokenizer.eos_token_id:
            break
    text = model.base.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True)
    return str(text).strip()


@pytest.mark.parametrize("batch_size", [1, 3, 9])
def test_each_completion_is_the_greedy_one_in_the_order_of_the_prompts(
    model: AdaptedModel, prompts: list[tuple[int, ...]], batch_size: int
) -> None:
    expected = [greedily(model, prompt, 6) for prompt in prompts]
    assert len(set(expected)) == 4
    assert generate(model, prompts, max_new_tokens=6, batch_size=batch_size) == expected


def test_in_reference_mode_the_base_answers(
    model: AdaptedModel, prompts: list[tuple[int, ...]], tiny_llama: Path
) -> None:
    with model.reference_mode():
        base = generate(model, prompts, max_new_tokens=6, batch_size=2)
    assert base != generate(model, prompts, max_new_tokens=6, batch_size=2)
    untouched = adapt(load(tiny_llama))
    assert base == [greedily(untouched, prompt, 6) for prompt in prompts]


def test_an_answer_ends_at_the_eos(model: AdaptedModel, prompts: list[tuple[int, ...]]) -> None:
    whole = generate(model, prompts[:1], max_new_tokens=8, batch_size=1)[0]
    with torch.no_grad():
        logits = model.base.model(input_ids=torch.tensor([prompts[0]])).logits
    tokenizer = model.base.tokenizer
    first = int(logits[0, -1].argmax())
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(first)
    (ended,) = generate(model, prompts[:1], max_new_tokens=8, batch_size=1)
    assert ended == tokenizer.decode([first]).strip() != whole


def test_the_models_own_generation_settings_do_not_count(
    model: AdaptedModel, prompts: list[tuple[int, ...]]
) -> None:
    expected = [greedily(model, prompt, 8) for prompt in prompts]
    settings = model.base.model.generation_config
    settings.repetition_penalty = 9.0
    settings.no_repeat_ngram_size = 1
    settings.do_sample = True
    assert generate(model, prompts, max_new_tokens=8, batch_size=2) == expected
    assert model.base.model.generation_config is settings


def test_progress_counts_every_prompt_once(
    model: AdaptedModel, prompts: list[tuple[int, ...]]
) -> None:
    answered: list[int] = []
    generate(model, prompts, max_new_tokens=1, batch_size=3, on_batch=answered.append)
    assert answered == [3, 1]
    assert generate(model, [], max_new_tokens=1, batch_size=3) == []
