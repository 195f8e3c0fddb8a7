"""From (prompt, answer) texts to token ids with a known border between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from lora_sku.data.framing import AnswerTokenizer, make_frame
from lora_sku.errors import DataError

# Each prompt comes 1 + k times in a row, and again in the next epoch.
_CACHED_PROMPTS = 4096
# They have neither a first nor a last token in common.
_PROBES = ("Apples are red", "Why so?")


@dataclass(frozen=True, slots=True)
class Encoded:
    """One prompt with one answer as token ids.

    Attributes:
        input_ids: The prompt's tokens, then the answer's, then EOS if the answer is whole.
        prompt_length: Number of prompt tokens, at least 1.
        prompt_truncated: The start of the prompt's text was cut off.
        answer_truncated: The end of the answer, or its EOS, was cut off.
        begun: Tokens behind the prompt that are given, not answered.
    """

    input_ids: tuple[int, ...]
    prompt_length: int
    prompt_truncated: bool
    answer_truncated: bool
    begun: int = 0

    @property
    def given_length(self) -> int:
        """Number of tokens before the answer: the prompt's and the begun ones."""
        return self.prompt_length + self.begun

    @property
    def answer_length(self) -> int:
        """Number of answer tokens, EOS included."""
        return len(self.input_ids) - self.given_length


class Encoder:
    """Tokenizes prompts and answers apart, so that no token spans the border.

    Args:
        tokenizer: The base model's.
        template: Text with {prompt}; None takes the tokenizer's chat template. Blanks at its end
            are encoded with the answer's first word.
        max_prompt_tokens: Longest prompt, frame and special tokens included.
        max_answer_tokens: Longest answer, EOS included.

    Raises:
        DataError: no chat template, no EOS token, or an answer cannot follow the template exactly.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: str | None,
        max_prompt_tokens: int,
        max_answer_tokens: int,
    ) -> None:
        if tokenizer.eos_token_id is None:
            raise DataError(
                "this tokenizer has no EOS token, so answers could not end",
                where="base_model.path",
                remedy="Set eos_token in its tokenizer_config.json.",
            )
        self.tokenizer = tokenizer
        self.max_prompt_tokens = max_prompt_tokens
        self.max_answer_tokens = max_answer_tokens
        self._eos_id = int(tokenizer.eos_token_id)
        self._frame = make_frame(tokenizer, template)
        self._answers = AnswerTokenizer(tokenizer, self._frame)
        # Control tokens such as Mistral's [/INST] have no name among the tokenizer's own.
        added = tokenizer.added_tokens_decoder
        named = (int(token) for token in tokenizer.all_special_ids)
        self._special_ids = {*named, *(id for id, token in added.items() if token.special)}
        self._cached_prompt = lru_cache(maxsize=_CACHED_PROMPTS)(self._fit_prompt)

    @property
    def pad_id(self) -> int:
        """What `collate` may pad with; masks never look at it."""
        pad_id = self.tokenizer.pad_token_id
        return self._eos_id if pad_id is None else int(pad_id)

    def prompt_length(self, prompt: str) -> int:
        """Tokens of the whole prompt, frame included, nothing cut."""
        return len(self._frame.ids(prompt))

    def prompt_ids(self, prompt: str) -> tuple[tuple[int, ...], bool]:
        """The prompt's token ids up to the answer, and whether its text had to be cut.

        A long prompt keeps the whole frame and the end of its text.

        Raises:
            DataError: the frame alone leaves no room for text.
        """
        return self._cached_prompt(prompt)

    def around_prompt(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The token ids before every prompt's text, and those between it and its answer."""
        one, other = (self._frame.ids(probe) for probe in _PROBES)
        before = _common_start(one, other)
        after = _common_start(one[::-1], other[::-1])
        return tuple(before), tuple(after[::-1])

    def is_special(self, token: int) -> bool:
        """Whether a token stands for a border, such as a turn's end, and not for text."""
        return token in self._special_ids

    def answer_ids(self, answer: str) -> tuple[tuple[int, ...], bool]:
        """The answer's token ids with EOS, or its first tokens without EOS and True."""
        ids = [*self._answers.ids(answer), self._eos_id]
        if len(ids) > self.max_answer_tokens:
            # No EOS: the model must not learn to stop in the middle of a sentence.
            return tuple(ids[: self.max_answer_tokens]), True
        return tuple(ids), False

    def opening_ids(self, opening: str) -> tuple[int, ...]:
        """The token ids that an answer is to begin with, up to `max_answer_tokens`, without EOS."""
        return tuple(self._answers.ids(opening)[: self.max_answer_tokens])

    def answer_length(self, answer: str) -> int:
        """Tokens of the whole answer, EOS included, nothing cut."""
        return len(self._answers.ids(answer)) + 1

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens shown."""
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def encode(self, prompt: str, answer: str, begun: str = "") -> Encoded:
        """Token ids of a prompt and one answer.

        Args:
            prompt: Its text, without the template's.
            answer: What is supervised, up to `max_answer_tokens`.
            begun: What stands between both and is not: the beginning of another answer.

        Raises:
            DataError: the frame alone leaves no room for the prompt's text.
        """
        prompt_ids, prompt_truncated = self.prompt_ids(prompt)
        if not begun:
            ids, truncated = self.answer_ids(answer)
            return Encoded(prompt_ids + ids, len(prompt_ids), prompt_truncated, truncated)
        whole = [*self._answers.ids(f"{begun} {answer}"), self._eos_id]
        # Where both part: the last begun word may fall into another token with a word behind it.
        border = len(_common_start(self._answers.ids(begun), whole))
        kept = tuple(whole[: border + self.max_answer_tokens])
        return Encoded(
            prompt_ids + kept, len(prompt_ids), prompt_truncated, len(kept) < len(whole), border
        )

    def _fit_prompt(self, prompt: str) -> tuple[tuple[int, ...], bool]:
        ids = self._frame.ids(prompt)
        starts = self._token_starts(prompt) if len(ids) > self.max_prompt_tokens else []
        dropped = 0
        while len(ids) > self.max_prompt_tokens:
            # The tail may fall into other tokens than before, hence the loop.
            dropped += len(ids) - self.max_prompt_tokens
            if dropped >= len(starts):
                raise DataError(
                    f"max_prompt_tokens is {self.max_prompt_tokens}, but the template alone takes"
                    f" {len(self._frame.ids(''))} tokens",
                    where="data.max_prompt_tokens",
                    remedy="Raise it, or shorten base_model.template.",
                )
            ids = self._frame.ids(prompt[starts[dropped] :])
        return tuple(ids), dropped > 0

    def _token_starts(self, prompt: str) -> list[int]:
        """Index of the character where each token of the prompt's text begins."""
        if not self.tokenizer.is_fast:
            return list(range(len(prompt)))  # no offsets: cut between characters
        encoding = self.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
        return [start for start, _ in encoding["offset_mapping"]]


def _common_start(one: Sequence[int], other: Sequence[int]) -> list[int]:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return [token for token, _ in pairs]
