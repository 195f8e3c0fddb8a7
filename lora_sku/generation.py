"""Prompts -> completions, greedy or drawn, batched by length."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from lora_sku.model import AdaptedModel, Base
from lora_sku.token_sampling import GumbelDraw, Sampling


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model went on with.

    Attributes:
        text: Without special tokens and outer white space.
        ended: It came to an end of its own, not to the bound.
    """

    text: str
    ended: bool


def counting(total: int, on_answered: Callable[[int, int], None]) -> Callable[[int], None]:
    """For `on_batch`: adds up, and calls with (prompts answered, ``total``)."""
    done = 0

    def count(answered: int) -> None:
        nonlocal done
        done += answered
        on_answered(done, total)

    return count


def generate(
    model: AdaptedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
    sampling: Sampling | None = None,
) -> list[str]:
    """The text that `complete` gives for the model's active adapter, or inside `reference_mode` for
    theta_o.
    """
    completions = complete(
        model.base,
        prompts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        on_batch=on_batch,
        sampling=sampling,
    )
    return [completion.text for completion in completions]


def complete(
    base: Base,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    on_batch: Callable[[int], None] | None = None,
    sampling: Sampling | None = None,
    stop_ids: Sequence[int] = (),
) -> list[Completion]:
    """Go on from each prompt.

    Args:
        base: A language model whose adapters, if it has any, are as they should be.
        prompts: Token ids of each prompt.
        max_new_tokens: Bound of a completion.
        batch_size: Prompts answered at once.
        on_batch: Called with the number of prompts just answered.
        sampling: How to draw; None is greedy.
        stop_ids: Tokens that end a completion, beside EOS and those that the model names.

    Returns:
        In the order of the prompts.
    """
    tokenizer = base.tokenizer
    pad_id = tokenizer.eos_token_id
    ends = sorted({tokenizer.eos_token_id, *_named_ends(base.model), *stop_ids})
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=pad_id
    )
    completions: dict[int, Completion] = {}
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
        with torch.no_grad(), _only(settings, base.model), _contiguous_states(base.model):
            output: Tensor = base.model.generate(  # type: ignore[operator]
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=settings,
                logits_processor=drawing,
            )
        for row, tokens in zip(rows, output[:, width:], strict=True):
            completions[row] = _completion(base, tokens.tolist(), ends)
        if on_batch is not None:
            on_batch(len(rows))
    return [completions[row] for row in range(len(prompts))]


def _completion(base: Base, tokens: list[int], ends: Collection[int]) -> Completion:
    """Up to the first end, which is not shown even where it is no special token."""
    length = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
    text = base.tokenizer.decode(tokens[:length], skip_special_tokens=True)
    return Completion(str(text).strip(), ended=length < len(tokens))


def _named_ends(model: PreTrainedModel) -> list[int]:
    """EOS tokens of generation_config.json: a chat's turn may end with another than its text."""
    named = None if model.generation_config is None else model.generation_config.eos_token_id
    if named is None:
        return []
    return [named] if isinstance(named, int) else list(named)


@contextmanager
def _contiguous_states(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the output projection gets its input in one piece.

    transformers hands it a slice of the prompts' states. For one that is not contiguous PyTorch
    repeats the weight for every row before it multiplies: gigabytes for a small vocabulary.
    """
    projection = model.get_output_embeddings()
    hook = projection.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))
    try:
        yield
    finally:
        hook.remove()


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
