"""Drawing tokens so that a completion depends on its own seed, not on what shares its batch.

torch's sampling takes one stream of random numbers for all rows of a batch. Here each row has its
own, and the Gumbel-max trick turns the draw into an argmax: greedy search over logits plus Gumbel
noise is a draw from their softmax. So an answer can be kept on disk under its prompt alone.

Shape suffixes: B rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

# Tokens that mostly hold the whole nucleus: to sort a vocabulary takes longer than a small model.
_FEW = 1024


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw.

    Attributes:
        temperature: Logits are divided by it.
        top_p: The likeliest tokens that together reach this share remain, and their equals.
        seeds: One for each prompt.
    """

    temperature: float
    top_p: float
    seeds: tuple[int, ...]

    def of(self, rows: Sequence[int]) -> "Sampling":
        """The same for some of the prompts."""
        return Sampling(self.temperature, self.top_p, tuple(self.seeds[row] for row in rows))


class GumbelDraw(LogitsProcessor):
    """Logits whose argmax is a draw; for greedy search.

    Args:
        sampling: With a seed for each row.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._temperature, self._top_p = sampling.temperature, sampling.top_p
        # On the CPU, so that a seed means the same numbers on every device.
        self._rows = [torch.Generator().manual_seed(seed) for seed in sampling.seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # noqa: ARG002 - theirs
        """(B, V) logits of the next token -> those of the kept tokens, with noise."""
        logits_BV = _nucleus(scores.float() / self._temperature, self._top_p)
        uniform_BV = torch.stack([_open_uniform(logits_BV.shape[1], row) for row in self._rows])
        return logits_BV - (-uniform_BV.log()).log().to(logits_BV.device)


def _nucleus(logits_BV: Tensor, top_p: float) -> Tensor:
    """Leave the likeliest tokens that together reach ``top_p``, always at least one.

    Those that are as likely as the last of them stay too: which of them a search names first is
    not the row's own, and bf16 logits tie.
    """
    probability_BV = logits_BV.softmax(-1)
    few = min(_FEW, logits_BV.shape[1])
    likeliest_BK = probability_BV.topk(few).values
    if not bool((likeliest_BK.sum(-1) >= top_p).all()):
        likeliest_BK = probability_BV.sort(descending=True).values
    beyond_BK = likeliest_BK.cumsum(-1) - likeliest_BK >= top_p
    least_B1 = likeliest_BK.masked_fill(beyond_BK, torch.inf).amin(-1, keepdim=True)
    return logits_BV.masked_fill(probability_BV < least_B1, -torch.inf)


def _open_uniform(count: int, generator: torch.Generator) -> Tensor:
    """In (0, 1): neither end has a finite Gumbel value."""
    tiny = torch.finfo(torch.float32).tiny
    return torch.rand(count, generator=generator).clamp_(tiny, 1 - 2**-24)
