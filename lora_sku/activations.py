"""What adapted layers read: theta_o's inputs at drawn token positions, a few layers at a time.

Layers that read the same tensor (q, k, v; gate, up) share one sample. The positions are drawn from
the encoded texts before any pass, so every layer and every pass sees the same tokens and the draw
depends on the seed alone. Where the retain side is several sets, each gives as many positions, so
that a small one weighs as much as a large one: if its texts hold fewer, they are taken again. The
start that all texts have in common (the template's) is the same at
every position in every text, since no causal model looks ahead: it cannot tell forget from retain,
so forget leaves it out, and retain, which must not change there either, takes it once (at most
half of its positions).

Memory: with n positions of each side a layer input of width I holds 2 n I numbers in the compute
dtype; never I x I. The model is run again for each of the `sample_groups` of layers, so what is
held does not grow with the depth; a pass ends at its group's last layer. A 7B Llama (4096 and 11008
wide, 32 layers) at n = 4096: 382 MB a layer, 12 passes. Samples lie in the machine's memory, not on
the GPU.

Measured: SmolLM2-135M in NF4, 20 adapted layers, 256 texts of each set (37,000 tokens), n = 4096,
two CPU cores: 61 s in one pass, 31 to 57 s to solve for four mus, 1.3 GiB above the loaded model.

Shape suffixes: B rows, T tokens of a row, P drawn positions, I in features.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import groupby

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lora_sku.data import Encoder, Row, draw_pairs
from lora_sku.errors import AdapterError
from lora_sku.model import AdaptedModel
from lora_sku.projection import InputSample, sample_groups
from lora_sku.recipe import ProjectionSection, SubspaceSection


class _Reached(Exception):  # noqa: N818 - it ends a forward pass early and is no error
    pass


Position = tuple[int, int]
"""(number of the text, place in it)."""


@dataclass(frozen=True)
class Texts:
    """Token ids as the model reads them, and the drawn places in them."""

    ids: tuple[tuple[int, ...], ...]
    drawn: tuple[Position, ...]


def draw_texts(
    forget: Sequence[Row],
    normal: Sequence[Sequence[Row]],
    encoder: Encoder,
    *,
    prompts: int,
    tokens: int,
    seed: int,
) -> tuple[Texts, Texts]:
    """Draw prompts of every set, an answer to each, and token positions in them.

    Prompt and answer positions alike: the delta acts on both, and an answer is read through what
    the prompt's positions became.

    Args:
        forget: Training rows.
        normal: Training rows of each set on the retain side.
        encoder: Tokenizes them.
        prompts: At most so many of each set.
        tokens: At most so many positions of each side.
        seed: Decides every draw.

    Returns:
        Forget and retain.
    """
    rng = random.Random(seed)
    harmful, *sets = [_draw_texts(rows, encoder, prompts, rng) for rows in (forget, *normal)]
    shared = _common_start([*harmful, *(text for texts in sets for text in texts)])
    frame = [(0, place) for place in range(shared)][: tokens // 2]
    of_forget = _draw_positions([harmful], shared, tokens, rng)
    of_retain = [*frame, *_draw_positions(sets, shared, tokens - len(frame), rng)]
    together = tuple(text for texts in sets for text in texts)
    return Texts(harmful, tuple(sorted(of_forget))), Texts(together, tuple(sorted(of_retain)))


def sample_sets(
    model: AdaptedModel,
    forget: Sequence[Row],
    normal: Sequence[Sequence[Row]],
    encoder: Encoder,
    section: ProjectionSection | SubspaceSection,
    *,
    rows: int,
    seed: int,
) -> Iterator[InputSample]:
    """`sample_inputs` at what `draw_texts` draws; ``section`` says how many prompts and tokens."""
    texts = draw_texts(
        forget, normal, encoder, prompts=section.prompts, tokens=section.tokens, seed=seed
    )
    return sample_inputs(model, *texts, rows=rows)


def sample_inputs(
    model: AdaptedModel, forget: Texts, retain: Texts, *, rows: int
) -> Iterator[InputSample]:
    """The sample of every layer input, in the order in which the model reads them.

    Args:
        model: Its adapters are off meanwhile: the inputs are theta_o's.
        forget: Forget texts and positions.
        retain: Retain texts and positions.
        rows: Texts in the model at once.

    Raises:
        AdapterError: if an adapted layer does not read every token (a routed expert).
    """
    positions = len(forget.drawn) + len(retain.drawn)
    bytes_of_feature = positions * model.base.compute_dtype.itemsize
    for group in sample_groups(shared_inputs(model), lambda x: x.features * bytes_of_feature):
        leaders = [shared.modules[0] for shared in group]
        of_forget = _collect(model, leaders, forget, rows)
        of_retain = _collect(model, leaders, retain, rows)
        for shared, leader in zip(group, leaders, strict=True):
            # popped, so that a sample that the caller is done with is freed
            yield InputSample(shared.modules, of_forget.pop(leader), of_retain.pop(leader))


@dataclass(frozen=True)
class SharedInput:
    """Adapted layers that read the same tensor.

    Attributes:
        modules: Their paths, as the model calls them.
        features: Its width.
    """

    modules: tuple[str, ...]
    features: int


@torch.no_grad()
def shared_inputs(model: AdaptedModel) -> tuple[SharedInput, ...]:
    """Which adapted layers read the same tensor, found by running two tokens through the model.

    Raises:
        AdapterError: if an adapted layer does not read every token (a routed expert).
    """
    layers = _adapted_layers(model)
    seen: list[tuple[str, Tensor]] = []  # the tensors are held, so that no address comes twice
    ids_BT = torch.zeros(1, 2, dtype=torch.int64, device=model.base.device)
    with _hooks(layers, lambda path, x: seen.append((path, x))), model.reference_mode():
        model.hidden_states(ids_BT)
    read = dict(seen)
    for path in layers:
        if path not in read or read[path].numel() != 2 * read[path].shape[-1]:
            raise AdapterError(
                f"{path} does not read every token, so its inputs cannot be sampled",
                where="adapter.target_modules",
                remedy="Leave it out, or set adapter.subspace and negation.projection to null.",
            )
    by_tensor: dict[int, list[str]] = {}
    for path, x in read.items():
        by_tensor.setdefault(id(x), []).append(path)
    return tuple(
        SharedInput(tuple(paths), read[paths[0]].shape[-1]) for paths in by_tensor.values()
    )


@torch.no_grad()
def _collect(
    model: AdaptedModel, leaders: Sequence[str], texts: Texts, rows: int
) -> dict[str, Tensor]:
    """Path -> its inputs (P, I) at the drawn positions, in their order."""
    layers = {path: layer for path, layer in _adapted_layers(model).items() if path in leaders}
    collected: dict[str, Tensor] = {}
    for ids_BT, index_P, slots_P in _batches(texts, rows, model.base.device):
        # By default arguments: a hook must not see the next batch's.
        def keep(path: str, x: Tensor, at: Tensor = index_P, slots: Tensor = slots_P) -> None:
            features = x.shape[-1]
            if path not in collected:
                collected[path] = torch.empty(len(texts.drawn), features, dtype=x.dtype)
            collected[path][slots] = x.reshape(-1, features)[at].cpu()
            if path == leaders[-1]:
                raise _Reached

        with _hooks(layers, keep), model.reference_mode(), suppress(_Reached):
            model.hidden_states(ids_BT)
    return collected


def _batches(
    texts: Texts, rows: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(ids (B, T), index of each drawn position among B x T, its slot among all drawn ones)."""
    by_text = {
        number: [(slot, place) for slot, (_, place) in drawn]
        for number, drawn in groupby(enumerate(texts.drawn), key=lambda item: item[1][0])
    }
    numbers = sorted(by_text, key=lambda number: len(texts.ids[number]))
    for start in range(0, len(numbers), rows):
        chosen = numbers[start : start + rows]
        # Padding is read by no position before it, so any token will do.
        ids_BT = pad_sequence([torch.tensor(texts.ids[n]) for n in chosen], batch_first=True)
        width = ids_BT.shape[1]
        index = [row * width + place for row, n in enumerate(chosen) for _, place in by_text[n]]
        slots = [slot for n in chosen for slot, _ in by_text[n]]
        yield ids_BT.to(device), torch.tensor(index, device=device), torch.tensor(slots)


def _draw_texts(
    rows: Sequence[Row], encoder: Encoder, prompts: int, rng: random.Random
) -> tuple[tuple[int, ...], ...]:
    """Each drawn prompt with one of its answers; the last token is a target and never read."""
    return tuple(encoder.encode(*pair).input_ids[:-1] for pair in draw_pairs(rows, prompts, rng))


def _draw_positions(
    sets: Sequence[Sequence[Sequence[int]]], start: int, most: int, rng: random.Random
) -> list[Position]:
    """As many places of each set, behind the common start; texts are numbered through all sets."""
    free: list[list[Position]] = []
    first = 0
    for texts in sets:
        numbered = enumerate(texts, first)
        free.append([(n, place) for n, text in numbered for place in range(start, len(text))])
        first += len(texts)
    share = min(max(1, most // len(sets)), max(map(len, free)))
    drawn: list[Position] = []
    for places in free:
        whole, last = divmod(share - 1, len(places))
        drawn += places * whole + rng.sample(places, last + 1)
    return drawn


def _common_start(texts: Sequence[Sequence[int]]) -> int:
    """How many tokens all texts begin with; at most all but one of the shortest's."""
    most = min(len(text) for text in texts) - 1
    return next((i for i in range(most) if len({text[i] for text in texts}) > 1), most)


def a_factors(model: AdaptedModel, name: str, modules: Sequence[str]) -> list[nn.Parameter]:
    """A of adapter ``name`` in each of these adapted layers, (R, I)."""
    layers = _adapted_layers(model)
    return [layers[path].lora_A[name].weight for path in modules]


def _adapted_layers(model: AdaptedModel) -> dict[str, LoraLayer]:
    named = model.base.model.named_modules()
    return {path: layer for path, layer in named if isinstance(layer, LoraLayer)}


@contextmanager
def _hooks(layers: Mapping[str, nn.Module], tell: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``tell(path, input)`` whenever one of the layers is about to run."""

    def hook_of(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, args: tell(path, args[0])

    handles = [layer.register_forward_pre_hook(hook_of(path)) for path, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
