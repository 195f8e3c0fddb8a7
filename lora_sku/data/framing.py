"""The frame around a prompt: where its text stands and which white space leads the answer.

A frame renders the prompt without the white space that belongs to the answer's first token (in
byte-level BPE ' Paris' is one token, so a prompt that ends with the space would be cut wrongly).
"""

import re
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from lora_sku.errors import DataError

_PROBE = "two words"

# Texts to encode an answer behind; more than one, because a vocabulary may join some to a word.
_ANCHORS = ("\n", "\t", ":", "0")


class Frame(Protocol):
    """Renders a prompt into token ids."""

    lead: str
    """White space between the prompt and the answer's first character."""

    def ids(self, prompt: str) -> list[int]:
        """Token ids up to the answer, special tokens in front included, nothing cut."""
        ...


class ChatFrame:
    """The tokenizer's own chat template: one user turn, then the assistant's header."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.chat_template is None:
            raise DataError(
                "this tokenizer has no chat template (a base model, not an instruct model)",
                where="base_model.template",
                remedy='Set it, for example to "### Question: {prompt}\\n### Answer: ".',
            )
        self._tokenizer = tokenizer
        self.lead = self._lead()

    def ids(self, prompt: str) -> list[int]:
        """Token ids up to the answer; the template itself writes the special tokens."""
        encoding: Any = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )
        return list(encoding["input_ids"])

    def _lead(self) -> str:
        """Blanks that the template puts before an answer, as in Llama-2's '[/INST] answer'."""
        user = {"role": "user", "content": _PROBE}
        assistant = {"role": "assistant", "content": _PROBE}
        render = self._tokenizer.apply_chat_template
        asked = str(render([user], add_generation_prompt=True, tokenize=False))
        answered = str(render([user, assistant], tokenize=False))
        if not answered.startswith(asked):
            return ""
        lead = answered.removeprefix(asked).split(_PROBE)[0]
        return lead if not lead.strip(" ") else ""


class TextFrame:
    """A template string with {prompt} in it, behind the special tokens the tokenizer adds."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        self._tokenizer = tokenizer
        # Only blanks lead the answer. A line break stays with the prompt: no tokenizer joins it to
        # a word behind it, but many join it to the punctuation before it.
        blanks = re.search(r"[ \t]*\Z", template)
        assert blanks is not None  # the pattern also matches nothing
        self.lead = blanks.group()
        self._before, self._after = template[: blanks.start()].split("{prompt}")
        self._prefix = self._special_prefix()

    def ids(self, prompt: str) -> list[int]:
        """Token ids up to the answer; a trailing EOS, if the tokenizer adds one, is left off."""
        plain = self._plain(f"{self._before}{prompt}{self._after}")
        if plain[: len(self._prefix)] == self._prefix:
            return plain  # the template writes the special tokens itself
        return self._prefix + plain

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _special_prefix(self) -> list[int]:
        plain = self._plain(_PROBE)
        full = list(self._tokenizer(_PROBE)["input_ids"])
        for start in range(len(full) - len(plain) + 1):
            if full[start : start + len(plain)] == plain:
                return full[:start]
        raise DataError(
            "this tokenizer encodes a text differently with and without its special tokens",
            where="base_model.path",
            remedy="Use a tokenizer that only adds special tokens at the ends.",
        )


def make_frame(tokenizer: PreTrainedTokenizerBase, template: str | None) -> Frame:
    """The frame for `base_model.template`; None takes the tokenizer's chat template.

    Raises:
        DataError: there is no chat template, or the template does not hold {prompt} once.
    """
    if template is None:
        return ChatFrame(tokenizer)
    if template.count("{prompt}") != 1:
        raise DataError("must contain {prompt} exactly once", where="base_model.template")
    return TextFrame(tokenizer, template)


class AnswerTokenizer:
    """Answer text -> token ids that continue a frame's prompt exactly.

    Some tokenizers put a space of their own in front of every text (SentencePiece's dummy prefix).
    Whether this one does is found out by decoding a probe.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, frame: Frame) -> None:
        self._tokenizer = tokenizer
        self._lead = frame.lead
        self._anchors: dict[str, list[int]] = {}
        prompt = frame.ids(_PROBE)
        before = self._decode(prompt)
        wanted = before + frame.lead + _PROBE
        if self._decode(prompt + self.ids(_PROBE)) != before + " " + frame.lead + _PROBE:
            return  # no extra space
        if frame.lead.startswith(" "):
            self._lead = frame.lead[1:]  # the tokenizer's own space stands for it
        else:
            self._anchors = {anchor: self._plain(anchor) for anchor in _ANCHORS}
        if self._decode(prompt + self.ids(_PROBE)) != wanted:
            raise DataError(
                "this tokenizer puts a space before each answer that the template does not have",
                where="base_model.template",
                remedy="End the template with a space.",
            )

    def ids(self, answer: str) -> list[int]:
        """Token ids of the leading blanks and the answer, without EOS."""
        # Only a text's start gets the extra space: encode behind an anchor, take its tokens away.
        for anchor, anchor_ids in self._anchors.items():
            ids = self._plain(anchor + self._lead + answer)
            if ids[: len(anchor_ids)] == anchor_ids:
                return ids[len(anchor_ids) :]
        # No anchor needed, or this answer joins all of them: one space too many is the lesser evil.
        return self._plain(self._lead + answer)

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, clean_up_tokenization_spaces=False))
