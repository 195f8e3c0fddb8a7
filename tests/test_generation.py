"""Greedy completions, whatever the batch."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import adapt, load, make_encoder, teach

from lora_sku.generation import Completion, complete, generate
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


Ends = Callable[[AdaptedModel, int], dict[str, Any]]


def _as_eos(model: AdaptedModel, token: int) -> dict[str, Any]:
    tokenizer = model.base.tokenizer
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(token)
    return {}


def _as_the_model_names_it(model: AdaptedModel, token: int) -> dict[str, Any]:
    model.base.model.generation_config.eos_token_id = [token, 1]
    return {}


def _as_asked(_: AdaptedModel, token: int) -> dict[str, Any]:
    return {"stop_ids": [token]}


@pytest.mark.parametrize("end", [_as_eos, _as_the_model_names_it, _as_asked])
def test_a_completion_ends_before_its_end_token(
    model: AdaptedModel, prompts: list[tuple[int, ...]], end: Ends
) -> None:
    (bound,) = complete(model.base, prompts[:1], max_new_tokens=8, batch_size=1)
    assert not bound.ended
    with torch.no_grad():
        ids = model.base.model.generate(  # type: ignore[operator]
            torch.tensor([prompts[0]]), max_new_tokens=8, do_sample=False
        )[0, len(prompts[0]) :].tolist()
    place = next(i for i, token in enumerate(ids) if i > 0 and token not in ids[:i])
    keys = end(model, ids[place])
    found = complete(model.base, prompts, max_new_tokens=8, batch_size=4, **keys)
    text = model.base.tokenizer.decode(ids[:place], skip_special_tokens=True).strip()
    assert found[0] == Completion(text, ended=True)
    assert bound.text.startswith(text)
    assert bound.text != text


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


class Watched:
    """Notes whether what the output projection is given lies in one piece."""

    def __init__(self, model: AdaptedModel) -> None:
        self.projection = model.base.model.get_output_embeddings()
        self.seen: list[bool] = []
        self._forward = self.projection.forward
        self.projection.forward = self

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        self.seen.append(states.is_contiguous())
        return self._forward(states)


def test_the_output_projection_gets_its_input_in_one_piece(
    model: AdaptedModel, prompts: list[tuple[int, ...]]
) -> None:
    expected = [greedily(model, prompt, 4) for prompt in prompts]
    watched = Watched(model)
    ids = torch.tensor([prompts[0][:5], prompts[1][:5]])
    with torch.no_grad():
        model.base.model.generate(ids, max_new_tokens=2, do_sample=False)  # type: ignore[operator]
    assert False in watched.seen  # or there would be nothing to mend
    watched.seen.clear()
    assert generate(model, prompts, max_new_tokens=4, batch_size=4) == expected
    assert len(watched.seen) == 4
    assert all(watched.seen)


@pytest.mark.parametrize("fails", [False, True])
def test_the_output_projection_is_left_as_it_was(
    model: AdaptedModel,
    prompts: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
) -> None:
    projection, hooks = model.base.model.get_output_embeddings(), []
    real = model.base.model.generate

    def watched(*args: Any, **keys: Any) -> Any:
        hooks.append(len(projection._forward_pre_hooks))
        if fails:
            raise RuntimeError("stop")
        return real(*args, **keys)

    monkeypatch.setattr(model.base.model, "generate", watched)
    with pytest.raises(RuntimeError, match="stop") if fails else nullcontext():
        generate(model, prompts, max_new_tokens=1, batch_size=2)
    assert hooks == ([1] if fails else [1, 1])
    assert not projection._forward_pre_hooks
