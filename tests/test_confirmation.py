"""Refusals and broken text are counted where theta_o had neither."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import adapt, load, make_encoder, teach

from lora_sku import confirmation
from lora_sku.budget import Cost
from lora_sku.confirmation import NEW_TOKENS, Confirmation
from lora_sku.data import Row
from lora_sku.generation import generate
from lora_sku.model import AdaptedModel
from lora_sku.sweep import Point

FINE, REFUSING, LOOPING = "It is a fine day.", "I can't help with that.", "no no no no no no"
# Prompt -> (theta_o's answer, the adapter's).
ANSWERS = {
    "stays fine": (FINE, "Another fine answer."),
    "newly refused": (FINE, REFUSING),
    "newly refused too": (FINE, "I'm sorry, but I cannot do that."),
    "newly broken": (FINE, LOOPING),
    "newly blank": (FINE, "..."),
    "refused before": (REFUSING, REFUSING),
    "broken before": (LOOPING, LOOPING),
    "refused before, broken now": (REFUSING, LOOPING),
    "refused before, fine now": (REFUSING, FINE),
}


def rows(*prompts: str) -> tuple[Row, ...]:
    return tuple(Row(prompt, ("given",)) for prompt in prompts)


@pytest.fixture
def model(tiny_llama: Path) -> AdaptedModel:
    model = adapt(load(tiny_llama))
    teach(model)
    model.peft_model.eval()
    return model


@pytest.fixture
def asked(model: AdaptedModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, list[str]]]:
    """(whether theta_o was asked, the prompts) of every round of answers, which are ANSWERS."""
    rounds: list[tuple[bool, list[str]]] = []
    encoder = make_encoder(model.base)
    prompt_of = {encoder.prompt_ids(prompt)[0]: prompt for prompt in ANSWERS}

    def answer(of: AdaptedModel, ids: Sequence[Any], **keys: Any) -> list[str]:
        assert of is model
        assert keys == {"max_new_tokens": NEW_TOKENS, "batch_size": 3}
        off = all(layer.disable_adapters for layer in model.adapted_layers)
        prompts = [prompt_of[tuple(each)] for each in ids]
        rounds.append((off, prompts))
        return [ANSWERS[prompt][0 if off else 1] for prompt in prompts]

    monkeypatch.setattr(confirmation, "generate", answer)
    return rounds


def confirm(model: AdaptedModel, point: Point, forget: Any, normal: Any) -> Point:
    encoder = make_encoder(model.base)
    return Confirmation(model, encoder, forget, normal, batch_size=3)(point)


def cost(name: str, prompts: int) -> Cost:
    return Cost(name, 1.01, 0.02, 0.03, 99, prompts)


def test_only_what_is_newly_refused_or_broken_counts(
    model: AdaptedModel, asked: list[tuple[bool, list[str]]]
) -> None:
    point = Point(1.5, 2.0, 0.5, 99, 9, (cost("retain", 9), cost("shop", 2)))
    normal = {"retain": rows(*ANSWERS), "shop": rows("stays fine", "newly blank")}
    found = confirm(model, point, rows(*ANSWERS), normal)
    assert found.refused == 4
    assert [(c.name, c.refused, c.prompts) for c in found.costs] == [
        ("retain", 4, 9),
        ("shop", 1, 2),
    ]
    # All else is as it was measured.
    assert (found.strength, found.forget_nll, found.forget_kl, found.prompts) == (1.5, 2.0, 0.5, 9)
    assert all((c.perplexity_ratio, c.kl, c.first_kl) == (1.01, 0.02, 0.03) for c in found.costs)


def test_theta_o_is_asked_only_where_the_adapter_gave_no_answer(
    model: AdaptedModel, asked: list[tuple[bool, list[str]]]
) -> None:
    point = Point(1.0, 2.0, 0.5, 0, 9, ())
    confirm(model, point, rows(*ANSWERS), {})
    bad = [
        prompt for prompt, (_, now) in ANSWERS.items() if now not in (FINE, "Another fine answer.")
    ]
    assert asked == [(False, list(ANSWERS)), (True, bad)]
    assert not any(layer.disable_adapters for layer in model.adapted_layers)


def test_where_all_is_answered_theta_o_is_not_asked(
    model: AdaptedModel, asked: list[tuple[bool, list[str]]]
) -> None:
    point = Point(1.0, 2.0, 0.5, 0, 2, (cost("retain", 1),))
    fine = rows("stays fine", "refused before, fine now")
    found = confirm(model, point, fine, {"retain": rows("stays fine")})
    assert (found.refused, found.costs[0].refused) == (0, 0)
    assert [off for off, _ in asked] == [False, False]


def test_it_reads_what_the_model_really_says(
    model: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[list[str]] = []

    def spy(*args: Any, **keys: Any) -> list[str]:
        texts.append(generate(*args, **keys))
        return texts[-1]

    monkeypatch.setattr(confirmation, "generate", spy)
    monkeypatch.setattr(confirmation, "classify", lambda text: "refusal")
    confirm(model, Point(1.0, 2.0, 0.5, 0, 2, ()), rows("stays fine", "newly refused"), {})
    now, before = texts
    assert now != before
    encoder = make_encoder(model.base)
    ids = [encoder.prompt_ids(prompt)[0] for prompt in ("stays fine", "newly refused")]
    assert now == generate(model, ids, max_new_tokens=NEW_TOKENS, batch_size=1)
    with model.reference_mode():
        assert before == generate(model, ids, max_new_tokens=NEW_TOKENS, batch_size=1)
