"""Small tokenizers, built here, that stand for the two great families; and file writers."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lora_sku.recipe import SourceSection

CORPUS = [
    "### Question: What is the capital of France?\n### Answer: Paris",
    "### Question: two words? Answer: two words\nParis is the capital of France.",
    "Question: where is Paris? Answer: Paris is in France: ab ab ab abc",
] * 4
SPECIAL = ["<s>", "</s>", "<|user|>", "<|assistant|>", "<pad>"]
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def _wrap(tokenizer: Tokenizer, **kwargs: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
        **kwargs,
    )


def make_byte_level(chat_template: str | None = CHAT) -> PreTrainedTokenizerFast:
    """Like GPT-2: ' Paris' is one token; adds BOS and EOS around a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return _wrap(tokenizer, chat_template=chat_template)


def make_metaspace(
    chat_template: str | None = CHAT, *, joins_lines: bool = False
) -> PreTrainedTokenizerFast:
    """Like Llama-2's SentencePiece: puts a space of its own in front of every text.

    With `joins_lines` there are tokens that hold a line break and the word behind it.
    """
    corpus = CORPUS if joins_lines else [text.replace("\n", " \n ") for text in CORPUS]
    tokenizer = Tokenizer(models.BPE(unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=True)
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return _wrap(tokenizer, chat_template=chat_template)


@pytest.fixture(scope="session")
def byte_level() -> PreTrainedTokenizerFast:
    return make_byte_level()


@pytest.fixture(scope="session")
def metaspace() -> PreTrainedTokenizerFast:
    return make_metaspace()


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., SourceSection]:
    """Write records to a .jsonl file and get the section that reads it."""

    def write(
        records: Iterable[dict[str, Any]], name: str = "data.jsonl", **keys: Any
    ) -> SourceSection:
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return SourceSection(path=str(path), **{"format": "prompt-response", **keys})

    return write


def pairs(*texts: str) -> list[dict[str, str]]:
    """'p/a' -> {"prompt": "p", "response": "a"}."""
    return [dict(zip(("prompt", "response"), text.split("/"), strict=True)) for text in texts]
