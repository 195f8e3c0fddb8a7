"""Small tokenizers, built here, that stand for the great families; and short records."""

import json
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

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


def make_prepending(chat_template: str | None = CHAT) -> PreTrainedTokenizerFast:
    """Like Llama-2's converted tokenizer: its space comes on top of one that is there already."""
    description = json.loads(make_metaspace().backend_tokenizer.to_str())
    description["pre_tokenizer"] = None
    description["normalizer"] = {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ],
    }
    description["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    return _wrap(Tokenizer.from_str(json.dumps(description)), chat_template=chat_template)


def pairs(*texts: str) -> list[dict[str, str]]:
    """'p/a' -> {"prompt": "p", "response": "a"}."""
    return [dict(zip(("prompt", "response"), text.split("/"), strict=True)) for text in texts]
