"""How likely the frozen base finds a text behind a prompt, and without one; what it says itself.

Shape suffix: N answer tokens of a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from lora_sku.data import Encoded, Encoder, Pair, collate
from lora_sku.generation import counting, generate
from lora_sku.losses import token_nll
from lora_sku.model import AdaptedModel

# The same frame with nothing asked: it needs no language and favours no topic, while the text is
# still measured as an answer, at an answer's place.
NEUTRAL_PROMPT = ""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Means over a text's tokens, in nats per token.

    Attributes:
        nll: -log p(text | prompt): how far the text is from what the base would say.
        pmi: log p(text | prompt) - log p(text | no prompt): how much the prompt explains of it.
    """

    nll: float
    pmi: float


class BaseLikelihood:
    """theta_o's likelihoods: whatever adapter is on the model is off while it measures.

    Args:
        model: The base with an adapter.
        encoder: Tokenizes prompts and texts.
        batch_size: Texts at once.
        on_answered: Called with (prompts answered, all of them) while it answers.
    """

    def __init__(
        self,
        model: AdaptedModel,
        encoder: Encoder,
        *,
        batch_size: int,
        on_answered: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        self._model = model
        self._encoder = encoder
        self._batch_size = batch_size
        self._on_answered = on_answered

    def measure(self, pairs: Sequence[Pair]) -> list[Likelihood]:
        """One `Likelihood` a (prompt, text) pair, in their order; no text may be empty."""
        asked = self.nlls(pairs)
        unasked = self.nlls([(NEUTRAL_PROMPT, text) for _, text in pairs])
        return [Likelihood(nll, neutral - nll) for nll, neutral in zip(asked, unasked, strict=True)]

    def answers(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """What theta_o says itself, greedily; an answer may be blank."""
        with self._model.reference_mode():
            return generate(
                self._model,
                [self._encoder.prompt_ids(prompt)[0] for prompt in prompts],
                max_new_tokens=max_new_tokens,
                batch_size=self._batch_size,
                on_batch=counting(len(prompts), self._on_answered),
            )

    @torch.no_grad()
    def nlls(self, pairs: Sequence[Pair]) -> list[float]:
        """-log p(text | prompt) of each pair, the mean over the text's tokens."""
        encoded = [self._encode(*pair) for pair in pairs]
        nlls = [0.0] * len(encoded)
        by_length = sorted(range(len(encoded)), key=lambda i: len(encoded[i].input_ids))
        for start in range(0, len(by_length), self._batch_size):
            rows = by_length[start : start + self._batch_size]
            batch = collate([encoded[row] for row in rows], pad_id=self._encoder.pad_id)
            batch = batch.to(self._model.base.device)
            with self._model.reference_mode():
                states_ND = self._model.answer_states(batch)
            nll_N = token_nll(states_ND, batch.targets, self._model.base.head).cpu()
            lengths = [encoded[row].answer_length for row in rows]
            for row, piece in zip(rows, torch.split(nll_N, lengths), strict=True):
                nlls[row] = float(piece.mean())
        return nlls

    def _encode(self, prompt: str, text: str) -> Encoded:
        prompt_ids, prompt_truncated = self._encoder.prompt_ids(prompt)
        text_ids, text_truncated = self._encoder.answer_ids(text)
        if not text_truncated:
            # A completion that was stopped at the token limit has no end either.
            text_ids = text_ids[:-1]
        return Encoded(prompt_ids + text_ids, len(prompt_ids), prompt_truncated, text_truncated)
