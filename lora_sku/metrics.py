"""Pure scores of texts and log-probabilities."""

import math
import re
from collections import Counter
from collections.abc import Sequence

# Chinese, Japanese and Korean text has no spaces between words: there a character is a word.
_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+(?:['\u2019][^\W_]+)*")

# A text of fewer words cannot loop in a way that tells it from a terse answer.
_MIN_WORDS_TO_LOOP = 12
_LOOP_NGRAM = 3
# Fluent English of 64 tokens keeps over three quarters of its trigrams distinct.
_MIN_DISTINCT_TRIGRAMS = 0.5
_MIN_LETTER_SHARE = 0.5
_MAX_WORD_LENGTH = 40


def perplexity(mean_nll: float) -> float:
    """exp of a mean negative log-likelihood in nats per token."""
    return math.exp(mean_nll)


def words(text: str) -> list[str]:
    """Lower-case words of a text."""
    return [match.lower() for match in _WORD.findall(text)]


def distinct_ngram_share(tokens: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams, 1 for a text shorter than n."""
    ngrams = list(zip(*(tokens[i:] for i in range(n)), strict=False))
    return len(set(ngrams)) / len(ngrams) if ngrams else 1.0


def is_blank(text: str) -> bool:
    """No letter and no digit."""
    return not any(character.isalnum() for character in text)


def is_looping(text: str) -> bool:
    """The same phrases over and over, or one word filling the text."""
    tokens = words(text)
    if len(tokens) < _MIN_WORDS_TO_LOOP:
        return len(tokens) >= 4 and len(set(tokens)) == 1
    if distinct_ngram_share(tokens, _LOOP_NGRAM) < _MIN_DISTINCT_TRIGRAMS:
        return True
    most_common = Counter(tokens).most_common(1)[0][1]
    return most_common / len(tokens) > 0.5


def is_garbled(text: str) -> bool:
    """Not language: mostly symbols, or one endless run of characters."""
    visible = [character for character in text if not character.isspace()]
    letters = sum(character.isalnum() for character in visible)
    if letters < _MIN_LETTER_SHARE * len(visible):
        return True
    return any(len(word) > _MAX_WORD_LENGTH for word in words(text))


def rate(flags: Sequence[bool]) -> float:
    """Share of true flags; 0 of none."""
    return sum(flags) / len(flags) if flags else 0.0
