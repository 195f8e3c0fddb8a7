"""The base's own prompts: drawn from where a user's turn stands, cut at its end."""

from pathlib import Path
from typing import Any

import pytest
from tiny import adapt, load, make_encoder

from lora_sku.data import Encoder
from lora_sku.errors import DataError
from lora_sku.generation import Completion
from lora_sku.own_answers import OwnAnswers
from lora_sku.own_prompts import own_prompts
from lora_sku.recipe import OwnAnswersSection


class FakeDraws:
    """Goes on from the start of a turn with these texts; a bar ends one at the bound."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.asked: list[Any] = []
        self.stop_ids: tuple[int, ...] = ()

    def after(self, asked: list[Any], stop_ids: tuple[int, ...]) -> list[list[Completion]]:
        self.asked += asked
        self.stop_ids = stop_ids
        return [[Completion(it.rstrip("|"), ended=not it.endswith("|")) for it in self.texts]]


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
        "Name a large river. And then one that|",
        "Act as an assistant. What is 5-7-12?",
    )
    found = own_prompts(draws, chat)  # type: ignore[arg-type]
    assert found == [
        *("Why is the sky blue?", "Name a large river."),
        "Act as an assistant. What is 5-7-12?",
    ]
    assert draws.asked == [chat.around_prompt()[0]]


@pytest.mark.parametrize(
    ("between", "ends"),
    [
        ("</s><|im_start|>assistant\n", "</s>"),  # as ChatML has it, and Llama 3
        ("<|assistant|>", "<|assistant|>"),  # as Mistral's [/INST]: a turn has no EOS
        (" [/INST]<|assistant|>", "<|assistant|>"),
    ],
)
def test_a_chat_turn_ends_at_its_special_token(chat: Encoder, between: str, ends: str) -> None:
    chat.tokenizer.chat_template = (
        "<s>{% for m in messages %}<|user|>{{ m['content'] }}" + between + "{% endfor %}"
    )
    encoder = Encoder(chat.tokenizer, template=None, max_prompt_tokens=64, max_answer_tokens=32)
    draws = FakeDraws("Write to my assistant about it.", "Name a large river [/INST] The Nile")
    found = own_prompts(draws, encoder)  # type: ignore[arg-type]
    assert draws.stop_ids == tuple(chat.tokenizer.convert_tokens_to_ids([ends]))
    assert found[0] == "Write to my assistant about it."
    assert (found[1] == "Name a large river") == ("[/INST]" in between)


def test_a_text_template_is_cut_where_its_answer_begins(chat: Encoder) -> None:
    encoder = Encoder(
        chat.tokenizer,
        template="Question: {prompt}\nAnswer: ",
        max_prompt_tokens=64,
        max_answer_tokens=32,
    )
    draws = FakeDraws("Why is the sky blue? Hm\nAnswer: It scatters light.\nQuestion: And|")
    assert own_prompts(draws, encoder) == ["Why is the sky blue? Hm"]  # type: ignore[arg-type]
    assert draws.stop_ids == ()


def test_a_model_draws_them(tiny_llama: Path, tmp_path: Path) -> None:
    model = adapt(load(tiny_llama))
    section = OwnAnswersSection(per_prompt=12, max_new_tokens=8)
    encoder = make_encoder(model.base)
    drawn = OwnAnswers(model, encoder, section, 0, 4, tmp_path, lambda *_: None)
    turn_end = encoder.tokenizer.eos_token_id
    found = drawn.after([encoder.around_prompt()[0]], [turn_end])[0]
    texts = {completion.text for completion in found}
    assert len(found) == 12
    assert len(texts) > 6
    assert set(own_prompts(drawn, encoder)) <= texts


def test_a_template_that_begins_with_the_prompt_is_refused(chat: Encoder) -> None:
    class Bare:
        def around_prompt(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
            return (), (5, 6)

    with pytest.raises(DataError, match="nothing before a prompt") as caught:
        own_prompts(FakeDraws(), Bare())  # type: ignore[arg-type]
    assert caught.value.where == "data.own_prompts"
