"""The base's own prompts: drawn from where a user's turn stands, cut at its end."""

from pathlib import Path
from typing import Any

import pytest
from tiny import adapt, load, make_encoder

from lora_sku.data import Encoder
from lora_sku.errors import DataError
from lora_sku.own_answers import OwnAnswers
from lora_sku.own_prompts import own_prompts
from lora_sku.recipe import OwnAnswersSection


class FakeDraws:
    """Goes on from the start of a turn with these texts."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.asked: list[Any] = []

    def after(self, asked: list[Any]) -> list[list[str]]:
        self.asked += asked
        return [self.texts]


@pytest.fixture
def chat(tiny_llama: Path) -> Encoder:
    return make_encoder(load(tiny_llama))


def test_doubles_fragments_and_broken_prompts_are_left_out(chat: Encoder) -> None:
    draws = FakeDraws(
        "Why is the sky blue?",
        "",
        "Hello",
        "Why is the sky blue?",
        "la la la la la la la la la la la la",
        "Name a large river. And then one that",
    )
    found = own_prompts(draws, chat)  # type: ignore[arg-type]
    assert found == ["Why is the sky blue?", "Name a large river."]
    assert draws.asked == [chat.around_prompt()[0]]


def test_a_text_template_is_cut_where_its_answer_begins(chat: Encoder) -> None:
    encoder = Encoder(
        chat.tokenizer,
        template="Question: {prompt}\nAnswer: ",
        max_prompt_tokens=64,
        max_answer_tokens=32,
    )
    draws = FakeDraws("Why is the sky blue?\nAnswer: It scatters light.\nQuestion: And")
    assert own_prompts(draws, encoder) == ["Why is the sky blue?"]  # type: ignore[arg-type]


def test_a_model_draws_them(tiny_llama: Path, tmp_path: Path) -> None:
    model = adapt(load(tiny_llama))
    section = OwnAnswersSection(per_prompt=12, max_new_tokens=8)
    encoder = make_encoder(model.base)
    drawn = OwnAnswers(model, encoder, section, 0, 4, tmp_path, lambda *_: None)
    texts = drawn.after([encoder.around_prompt()[0]])[0]
    assert len(texts) == 12
    assert len(set(texts)) > 6
    assert set(own_prompts(drawn, encoder)) <= {text.strip() for text in texts}


def test_a_template_that_begins_with_the_prompt_is_refused(chat: Encoder) -> None:
    class Bare:
        def around_prompt(self) -> tuple[tuple[int, ...], str]:
            return (), "Answer:"

    with pytest.raises(DataError, match="nothing before a prompt") as caught:
        own_prompts(FakeDraws(), Bare())  # type: ignore[arg-type]
    assert caught.value.where == "data.own_prompts"
