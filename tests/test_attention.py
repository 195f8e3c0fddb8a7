"""Packed rows: every architecture that takes them computes what separate rows compute."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, LLAMA_LIKE
from tiny import adapt, llama_config, load, logits_of, save_model, teach
from torch import Tensor
from transformers import MistralConfig, Qwen2Config

from lora_sku.attention import NAME, causal_attention, use_packed_attention
from lora_sku.data import Batch, Encoded, collate, pack
from lora_sku.model import AdaptedModel

PACKED = {
    "Llama": llama_config(),
    "Mistral": MistralConfig(**LLAMA_LIKE, sliding_window=None),
    "Qwen 2": Qwen2Config(**LLAMA_LIKE),
    **{kind: config for kind, config in ARCHITECTURES.items() if "Gemma" not in kind},
}


def pair(*ids: int, prompt: int) -> Encoded:
    return Encoded(ids, prompt, False, False)


# Prompts that begin alike, the last one a beginning of the one before it, with one to three answers
# of different lengths, one of them empty but for its EOS.
GROUPS = [
    [pair(1, 20, 21, 30, 31, 1, prompt=3), pair(1, 20, 21, 32, 1, prompt=3)],
    [
        pair(1, 22, 23, 24, 33, 34, 35, 1, prompt=4),
        pair(1, 22, 23, 24, 36, 1, prompt=4),
        pair(1, 22, 23, 24, 1, prompt=4),
    ],
    [pair(1, 22, 23, 37, 38, 1, prompt=3)],
]


@pytest.fixture(params=PACKED)
def model(request: pytest.FixtureRequest, tmp_path: Path) -> AdaptedModel:
    base = load(save_model(tmp_path, PACKED[request.param]))
    assert base.packing.refused is None
    adapted = adapt(base)
    teach(adapted)
    return adapted


def apart() -> Batch:
    return collate([pair for group in GROUPS for pair in group], pad_id=0)


def gradients(model: AdaptedModel, batch: Batch) -> dict[str, Tensor]:
    parameters = model.trained_parameters()
    states_ND = model.answer_states(batch)
    weights_ND = torch.linspace(-1, 1, states_ND.numel()).view(states_ND.shape)
    found = torch.autograd.grad((states_ND * weights_ND).sum(), list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


def test_packed_rows_give_the_hidden_states_of_separate_rows(model: AdaptedModel) -> None:
    packed = pack(GROUPS)
    assert packed.targets.tolist() == apart().targets.tolist()
    with torch.no_grad():
        together_ND, alone_ND = model.answer_states(packed), model.answer_states(apart())
    torch.testing.assert_close(together_ND, alone_ND, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_rows_give_the_gradients_of_separate_rows(
    model: AdaptedModel, checkpointing: bool
) -> None:
    expected = gradients(model, apart())
    if checkpointing:
        model.base.model.train()
        model.base.model.activation_checkpointing_enable({"use_reentrant": False})
    for name, gradient in gradients(model, pack(GROUPS)).items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("scaling", [None, 0.3])
@pytest.mark.parametrize("key_heads", [6, 2, 1])
def test_the_cpus_attention_is_pytorchs(key_heads: int, scaling: float | None) -> None:
    generator = torch.Generator().manual_seed(0)

    def states(heads: int) -> torch.Tensor:
        made = torch.randn(3, 7, heads, 5, generator=generator).transpose(1, 2)
        return made.detach().requires_grad_()

    ours = states(6), states(key_heads), states(key_heads)
    theirs = tuple(x.detach().clone().requires_grad_() for x in ours)
    found = causal_attention(*ours, scaling)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *theirs, is_causal=True, scale=scaling, enable_gqa=True
    )
    torch.testing.assert_close(found, expected)
    given = torch.randn(expected.shape, generator=generator)
    found.backward(given)
    expected.backward(given)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_an_answer_does_not_see_the_others(tiny_llama: Path) -> None:
    model = adapt(load(tiny_llama))
    other = [GROUPS[0], [GROUPS[1][0], pair(1, 22, 23, 24, 99, 98, 1, prompt=4)]]
    with torch.no_grad():
        first_ND, second_ND = (model.answer_states(pack(groups)) for groups in (GROUPS, other))
    same = sum(p.answer_length for p in (*GROUPS[0], GROUPS[1][0]))
    assert torch.equal(first_ND[:same], second_ND[:same])
    assert not torch.allclose(first_ND[same + 1], second_ND[same + 1], atol=1e-3)


def test_plain_batches_compute_what_they_did(tiny_llama: Path) -> None:
    base = load(tiny_llama)
    ids_BT = torch.arange(12).view(2, 6)
    packed_ready = logits_of(base.model, ids_BT)
    assert base.model.config._attn_implementation == NAME
    base.model.set_attn_implementation("sdpa")
    assert torch.equal(packed_ready, logits_of(base.model, ids_BT))


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_only_pytorchs_plain_attention_is_replaced(tiny_llama: Path, kind: str) -> None:
    model = load(tiny_llama).model
    model.set_attn_implementation(kind)
    assert use_packed_attention(model) is (kind == "sdpa")
    assert model.config._attn_implementation == (NAME if kind == "sdpa" else "eager")


Generate = Callable[..., Tensor]


def test_generation_is_untouched(tiny_llama: Path) -> None:
    base = load(tiny_llama)
    ids_BT = torch.tensor([[2, 2, 5, 6], [7, 8, 9, 10]])
    mask_BT = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    generate: Generate = base.model.generate  # type: ignore[assignment]
    keys = {"attention_mask": mask_BT, "max_new_tokens": 5, "do_sample": False, "pad_token_id": 2}
    answers = generate(ids_BT, **keys)
    base.model.set_attn_implementation("sdpa")
    assert torch.equal(answers, generate(ids_BT, **keys))
