"""From encoded pairs to one right-padded batch.

B sequences, T tokens of the longest one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lora_sku.data.encoding import Encoded


@dataclass(frozen=True)
class Batch:
    """Sequences of one micro-batch, padded on the right.

    Right padding needs no attention mask: in a causal model no real token sees a later one.

    Attributes:
        input_ids: (B, T) int64.
        answer_mask: (B, T) bool; True at answer tokens, EOS included. A True position is to be
            predicted from the position before it; column 0 is always False.
    """

    input_ids: torch.Tensor
    answer_mask: torch.Tensor

    @property
    def n_answer_tokens(self) -> int:
        """How many tokens count in the loss; reading it waits for the device."""
        return int(self.answer_mask.sum())

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return Batch(self.input_ids.to(device), self.answer_mask.to(device))


def collate(encoded: Sequence[Encoded], *, pad_id: int) -> Batch:
    """Pad encoded pairs on the right.

    Args:
        encoded: At least one pair.
        pad_id: Fills the ends. It may be a token that also occurs in answers, as EOS does: the
            mask comes from the lengths.

    Raises:
        ValueError: nothing to collate, or a pair without a prompt token to predict from.
    """
    if not encoded:
        raise ValueError("collate needs at least one encoded pair")
    width = max(len(item.input_ids) for item in encoded)
    input_ids = torch.full((len(encoded), width), pad_id, dtype=torch.int64)
    answer_mask = torch.zeros((len(encoded), width), dtype=torch.bool)
    for row, item in enumerate(encoded):
        if item.prompt_length < 1:
            raise ValueError("the first answer token has no position before it")
        length = len(item.input_ids)
        input_ids[row, :length] = torch.tensor(item.input_ids, dtype=torch.int64)
        answer_mask[row, item.prompt_length : length] = True
    return Batch(input_ids, answer_mask)
