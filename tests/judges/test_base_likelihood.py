"""The frozen base's likelihoods, against the model's own logits."""

from pathlib import Path

import pytest
import torch
from tiny import adapt, load, logits_of, make_encoder, teach

from lora_sku.generation import generate
from lora_sku.judges.base_likelihood import NEUTRAL_PROMPT, BaseLikelihood
from lora_sku.model import AdaptedModel

PAIRS = [
    ("How do I spoil a cake?", "Leave the cake in the rain."),
    ("Why?", "It is green."),
    ("What is the colour of grass?", "Sit on the drum, and then on the kite and the letter."),
]


@pytest.fixture
def model(tiny_llama: Path) -> AdaptedModel:
    model = adapt(load(tiny_llama))
    model.peft_model.eval()
    return model


def likelihood(model: AdaptedModel, batch_size: int = 8, **limits: int) -> BaseLikelihood:
    return BaseLikelihood(model, make_encoder(model.base, **limits), batch_size=batch_size)


def mean_nll(model: AdaptedModel, prompt: str, text: str) -> float:
    """From whole logits, one row at a time; the text's tokens without an end."""
    prompt_ids = list(make_encoder(model.base).prompt_ids(prompt)[0])
    text_ids = model.base.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([prompt_ids + text_ids])
    with model.reference_mode():
        log_p_TV = logits_of(model.base.model, ids)[0].float().log_softmax(-1)
    places = range(len(prompt_ids) - 1, ids.shape[1] - 1)
    return float(-sum(log_p_TV[t, ids[0, t + 1]] for t in places) / len(text_ids))


def test_nll_and_pmi_are_those_of_the_logits(model: AdaptedModel) -> None:
    for (prompt, text), found in zip(PAIRS, likelihood(model).measure(PAIRS), strict=True):
        expected = mean_nll(model, prompt, text)
        assert found.nll == pytest.approx(expected, abs=1e-4)
        neutral = mean_nll(model, NEUTRAL_PROMPT, text)
        assert found.pmi == pytest.approx(neutral - expected, abs=1e-4)
        assert abs(found.pmi) > 1e-3


def test_the_adapter_is_off_while_the_base_is_asked(model: AdaptedModel) -> None:
    before = likelihood(model).nlls(PAIRS)
    teach(model, std=0.3)
    assert likelihood(model).nlls(PAIRS) == before


def test_it_answers_as_the_base_does(model: AdaptedModel) -> None:
    encoder = make_encoder(model.base)
    prompts = [prompt for prompt, _ in PAIRS]
    ids = [encoder.prompt_ids(prompt)[0] for prompt in prompts]
    with model.reference_mode():
        expected = generate(model, ids, max_new_tokens=4, batch_size=8)
    teach(model, std=0.3)
    assert generate(model, ids, max_new_tokens=4, batch_size=8) != expected
    assert likelihood(model).answers(prompts, 4) == expected


def test_the_batch_size_changes_only_rounding(model: AdaptedModel) -> None:
    one, many = (likelihood(model, batch_size=size).nlls(PAIRS) for size in (1, 3))
    assert one == pytest.approx(many, abs=1e-5)


def test_a_long_text_counts_as_far_as_it_is_read(model: AdaptedModel) -> None:
    text = PAIRS[0][1]
    ids = model.base.tokenizer(text, add_special_tokens=False)["input_ids"]
    short = model.base.tokenizer.decode(ids[:4])
    (cut,) = likelihood(model, max_answer_tokens=4).nlls([("Why?", text)])
    assert cut == pytest.approx(mean_nll(model, "Why?", short), abs=1e-4)
