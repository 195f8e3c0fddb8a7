"""Sentences -> unit vectors, by any transformers encoder with safetensors weights.

Shape suffixes: B sentences, T tokens, D hidden size.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from lora_sku.errors import JudgeError
from lora_sku.sources import locate

_BATCH = 32
_MAX_TOKENS = 256


class SentenceEncoder:
    """The mean of an encoder's last hidden states, scaled to length 1.

    Args:
        written: Hub id or folder, as the recipe writes it.
        revision: Of a hub model.
        device: Where it runs.

    Raises:
        SourceError: if it cannot be found, or has no safetensors weights.
        JudgeError: if transformers cannot load it.
    """

    def __init__(self, written: str, *, revision: str | None, device: torch.device) -> None:
        folder = locate(written, kind="model", revision=revision).path
        self._device = device
        self._tokenizer, self._model = _load(folder, written)
        self._model.to(device).eval()

    @torch.no_grad()
    def embed(self, sentences: Sequence[str]) -> Tensor:
        """Unit vectors (B, D), float32 on the CPU, in the order of the sentences."""
        vectors = []
        for start in range(0, len(sentences), _BATCH):
            encoding = self._tokenizer(
                list(sentences[start : start + _BATCH]),
                padding=True,
                truncation=True,
                max_length=_MAX_TOKENS,
                return_tensors="pt",
            ).to(self._device)
            hidden_BTD = self._model(**encoding).last_hidden_state.float()
            mask_BT1 = encoding["attention_mask"][..., None]
            mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
            vectors.append(torch.nn.functional.normalize(mean_BD, dim=-1).cpu())
        return torch.cat(vectors)


def _load(folder: Path, written: str) -> tuple[PreTrainedTokenizerBase, torch.nn.Module]:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        model: torch.nn.Module = AutoModel.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32
        )
    except (ValueError, OSError, KeyError) as error:
        raise JudgeError(
            f"transformers cannot load this encoder: {error}",
            where=written,
            remedy="evaluation.similarity.embedding_model needs a folder with config.json, a"
            " tokenizer and .safetensors files.",
        ) from error
    return tokenizer, model
