"""Prompts -> completions, greedy or drawn, batched by length."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from lora_sku.model import AdaptedModel, Base
from lora_sku.token_sampling import GumbelDraw, Sampling


def generate(
    model: AdaptedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
    sampling: Sampling | None = None,
) -> list[str]:
    """Completions of the model's active adapter, or of theta_o inside `reference_mode`.

    Args:
        model: The base with an adapter.
        prompts: Token ids of each prompt.
        max_new_tokens: Bound of a completion.
        batch_size: Prompts answered at once.
        on_batch: Called with the number of prompts just answered.
        sampling: How to draw; None is greedy.

    Returns:
        The completions' text in the order of the prompts, without special tokens.
    """
    return complete(
        model.base,
        prompts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        on_batch=on_batch,
        sampling=sampling,
    )


def complete(
    base: Base,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
    sampling: Sampling | None = None,
) -> list[str]:
    """`generate` for a language model of its own, or one whose adapters are as they should be."""
    tokenizer = base.tokenizer
    pad_id = tokenizer.eos_token_id
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=pad_id,
    )
    completions = [""] * len(prompts)
    by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(by_length), batch_size):
        rows = by_length[start : start + batch_size]
        width = max(len(prompts[row]) for row in rows)
        ids = torch.full((len(rows), width), pad_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, width - len(prompts[row]) :] = torch.tensor(prompts[row])
            mask[i, width - len(prompts[row]) :] = 1
        device = base.device
        drawing = LogitsProcessorList()
        if sampling is not None:
            drawing.append(GumbelDraw(sampling.of(rows)))
        with torch.no_grad(), _only(settings, base.model):
            output: Tensor = base.model.generate(  # type: ignore[operator]
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=settings,
                logits_processor=drawing,
            )
        for row, tokens in zip(rows, output[:, width:], strict=True):
            completions[row] = str(tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        if on_batch is not None:
            on_batch(len(rows))
    return completions


@contextmanager
def _only(settings: GenerationConfig, model: PreTrainedModel) -> Iterator[None]:
    """Inside, what the model's own generation_config.json adds, such as a repetition penalty, is
    off: transformers fills it in wherever the given settings say nothing.
    """
    own = model.generation_config
    model.generation_config = settings
    try:
        yield
    finally:
        model.generation_config = own
