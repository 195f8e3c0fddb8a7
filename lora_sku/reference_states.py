"""theta_o's hidden states at the answer positions: computed anew, or kept on disk.

theta_o never changes, so what it says of a pair is computed once for all epochs and all runs on the
same base, if the recipe asks for it. The preservation term then takes one forward pass instead of
two, for hidden size x 2 bytes of disk an answer token.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lora_sku.data import Batch, Encoded
from lora_sku.frozen_trunk import frozen_trunk
from lora_sku.model import AdaptedModel, Base
from lora_sku.storage import atomic_file

_NAME = "states_ND"


class ReferenceStates:
    """Gives theta_o's states of a batch.

    Args:
        model: Its base is theta_o.
        cache: Folder that keeps the states of every pair, under the base's own key; None keeps
            nothing.
    """

    def __init__(self, model: AdaptedModel, cache: Path | None) -> None:
        self._model = model
        self._trunk = frozen_trunk(model)
        self._folder = cache and cache / base_key(model.base)

    def beside(self, pairs: Sequence[Encoded], batch: Batch) -> tuple[Tensor, Tensor]:
        """(N, D) of the active adapter, with gradient, and theta_o's as `of` gives them.

        The layers below the adapter are the same for both, so they run once.

        Args:
            pairs: What the batch was made of, in its order.
            batch: On the model's device.
        """
        if self._trunk is None:
            return self._model.answer_states(batch), self.of(pairs, batch)
        with self._trunk.watched() as left:
            states_ND = self._model.answer_states(batch)
        with self._trunk.skipped(left[0]):
            return states_ND, self.of(pairs, batch)

    def of(self, pairs: Sequence[Encoded], batch: Batch) -> Tensor:
        """(N, D) without gradient, in the order of ``batch.targets``.

        Args:
            pairs: What the batch was made of, in its order.
            batch: On the model's device.
        """
        if self._folder is None:
            return self._compute(batch)
        files = [self._folder / f"{_key_of_pair(pair)}.safetensors" for pair in pairs]
        if all(file.is_file() for file in files):
            return torch.cat([load_file(file)[_NAME] for file in files]).to(batch.input_ids.device)
        states_ND = self._compute(batch)
        lengths = [pair.answer_length for pair in pairs]
        for file, piece_ND in zip(files, torch.split(states_ND.cpu(), lengths), strict=True):
            with atomic_file(file) as temporary:
                save_file({_NAME: piece_ND.contiguous()}, temporary)
        return states_ND

    @torch.no_grad()
    def _compute(self, batch: Batch) -> Tensor:
        with self._model.reference_mode():
            return self._model.answer_states(batch)


def base_key(base: Base) -> str:
    """Names what makes the same tokens give the same numbers: weights, quantization, dtype."""
    return f"{base.fingerprint[:16]}-{base.quantization}-{str(base.compute_dtype)[6:]}"


def _key_of_pair(pair: Encoded) -> str:
    written = f"{pair.given_length} {' '.join(map(str, pair.input_ids))}"
    return hashlib.sha256(written.encode()).hexdigest()[:32]
