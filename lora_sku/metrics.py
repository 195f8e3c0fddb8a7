"""Pure scores of texts and log-probabilities."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist, median

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


def wilson_interval(hits: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share; unlike the normal one it is sound at 0 and at all.

    Args:
        hits: How many have the property.
        total: Out of how many; of none nothing is known, so the interval is (0, 1).
        confidence: Share of such intervals that hold the true share.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    Journal of the American Statistical Association 22 (1927).
    """
    if total == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = hits / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At the ends the formula gives 0 and 1 but for rounding.
    low = 0.0 if hits == 0 else centre - half
    high = 1.0 if hits == total else centre + half
    return low, high


def upper_bound(hits: int, total: int, confidence: float = 0.95) -> float:
    """The upper end of Wilson's one-sided interval of a share: below it with that confidence.

    With no hit it is z^2 / (total + z^2): 3 % takes 88 at a confidence of 0.95.
    """
    return wilson_interval(hits, total, 2 * confidence - 1)[1]


def auc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Chance that a positive scores higher than a negative, ties half: the area under the ROC."""
    won = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    return won / (len(positives) * len(negatives))


@dataclass(frozen=True, slots=True)
class Threshold:
    """A border between two kinds of scores.

    Attributes:
        value: Positives score at least this.
        balanced_accuracy: Mean of the shares of positives and of negatives on their own side.
        auc: How well the score tells them apart, whatever the border; 0.5 is a coin.
    """

    value: float
    balanced_accuracy: float
    auc: float


def halfway_threshold(positives: Sequence[float], negatives: Sequence[float]) -> Threshold:
    """The border half-way between the two medians.

    Where kinds lie so far apart that many borders tell them, the best one (`best_threshold`) is
    that of the outliers; what is met later in between belongs to the nearer kind.

    Args:
        positives: Scores of which most should lie above it, at least one.
        negatives: Scores of which most should lie below it, at least one.
    """
    value = (median(positives) + median(negatives)) / 2
    accuracy = _balanced_accuracy(value, positives, negatives)
    return Threshold(value, accuracy, auc(positives, negatives))


def best_threshold(positives: Sequence[float], negatives: Sequence[float]) -> Threshold:
    """The border with the best balanced accuracy (Youden's), in the middle of its gap.

    Args:
        positives: Scores that should lie above it, at least one.
        negatives: Scores that should lie below it, at least one.
    """
    scores = sorted({*positives, *negatives})
    # Below all of them, or half-way between two neighbours; the widest gap wins a tie.
    borders = [(scores[0], 0.0)]
    borders += [((a + b) / 2, b - a) for a, b in pairwise(scores)]

    def accuracy(border: float) -> float:
        return _balanced_accuracy(border, positives, negatives)

    value, _ = max(borders, key=lambda border: (accuracy(border[0]), border[1]))
    return Threshold(value, accuracy(value), auc(positives, negatives))


def _balanced_accuracy(
    border: float, positives: Sequence[float], negatives: Sequence[float]
) -> float:
    kept = sum(p >= border for p in positives) / len(positives)
    return (kept + sum(n < border for n in negatives) / len(negatives)) / 2


def rouge_l(candidate: str, reference: str) -> float:
    """ROUGE-L: F1 of the longest common subsequence of words, in 0..1.

    Precision is its length over the candidate's words, recall over the reference's; without
    stemming. 0 if either text has no word.

    Source: C.-Y. Lin, ROUGE: A package for automatic evaluation of summaries (2004), section 3.
    """
    said, wanted = words(candidate), words(reference)
    common = _common_subsequence(said, wanted)
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def _common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, row by row of the usual table."""
    row = [0] * (len(second) + 1)
    for token in first:
        diagonal = 0
        for column, other in enumerate(second, start=1):
            above = row[column]
            row[column] = diagonal + 1 if token == other else max(above, row[column - 1])
            diagonal = above
    return row[-1]
