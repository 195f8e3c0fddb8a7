"""The lean forward of an adapted layer against PEFT's own."""

import copy
from pathlib import Path

import pytest
import torch
from architectures import GPT2_LIKE
from tiny import adapt, load, save_model, teach
from torch import Tensor, nn
from transformers import GPT2Config

from lora_sku.lora_forward import add_low_rank
from lora_sku.model import ACQUIRED, AdaptedModel

IDS = torch.arange(24).view(2, 12)


def results(model: AdaptedModel) -> tuple[Tensor, dict[str, Tensor]]:
    """Hidden states, and the adapter's gradients of a plain function of them."""
    parameters = model.trained_parameters()
    states_BTD = model.hidden_states(IDS)
    weights = torch.linspace(-1, 1, states_BTD.numel()).view(states_BTD.shape)
    found = torch.autograd.grad((states_BTD * weights).sum(), list(parameters.values()))
    return states_BTD.detach(), dict(zip(parameters, found, strict=True))


def as_peft_has_it(model: AdaptedModel) -> AdaptedModel:
    for layer in model._layers:
        del layer.forward  # the instance's own; the class's comes through again
    return model


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
@pytest.mark.parametrize("keys", [{}, {"use_rslora": True}, {"layers_to_transform": (1,)}])
def test_it_computes_what_peft_computes(
    tiny_llama: Path, quantization: str, keys: dict[str, object]
) -> None:
    model = adapt(load(tiny_llama, quantization), **keys)
    teach(model)
    states, gradients = results(model)
    expected_states, expected = results(as_peft_has_it(model))
    torch.testing.assert_close(states, expected_states, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4 * scale)


def test_it_computes_what_peft_computes_on_gpt2s_layers(tmp_path: Path) -> None:
    model = adapt(load(save_model(tmp_path, GPT2Config(**GPT2_LIKE))))
    teach(model)
    states, _ = results(model)
    expected, _ = results(as_peft_has_it(model))
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)


def test_dropout_draws_as_pefts_does(tiny_llama: Path) -> None:
    model = adapt(load(tiny_llama), lora_dropout=0.5)
    teach(model, std=0.2)
    model.peft_model.train()
    torch.manual_seed(3)
    states, _ = results(model)
    other, _ = results(model)
    torch.manual_seed(3)
    expected, _ = results(as_peft_has_it(model))
    torch.testing.assert_close(states, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(states, other, atol=1e-3)


def test_in_bf16_it_is_as_near_to_fp32_as_pefts_own(tiny_llama: Path) -> None:
    exact, rounded = adapt(load(tiny_llama)), adapt(load(tiny_llama, compute_dtype="bfloat16"))
    for model in (exact, rounded):
        teach(model)
    truth, true_gradients = results(exact)
    lean, gradients = results(rounded)
    peft, peft_gradients = results(as_peft_has_it(rounded))
    assert error(lean, truth) < 1.2 * error(peft, truth) < 0.02
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        allowed = max(1.5 * error(peft_gradients[name], true_gradients[name]), 0.02)
        assert error(gradient, true_gradients[name]) < allowed


def error(actual: Tensor, expected: Tensor) -> float:
    return float((actual.float() - expected).norm() / expected.norm())


def test_the_input_is_kept_once_for_all_projections_that_read_it() -> None:
    kept: list[Tensor] = []
    x = torch.randn(2, 8, 16, dtype=torch.bfloat16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        for _ in range(3):
            a, b = (nn.Parameter(torch.randn(s)) for s in ((4, 16), (12, 4)))
            add_low_rank(torch.zeros(2, 8, 12, dtype=torch.bfloat16), x, a, b, 2.0)
    inputs = [t for t in kept if t.numel() == x.numel() and t.dtype == x.dtype]
    assert {t.untyped_storage().data_ptr() for t in inputs} == {x.untyped_storage().data_ptr()}
    # Beside it the low-rank states and the factors themselves: nothing in fp32 of the input's size.
    others = [t for t in kept if t.numel() != x.numel()]
    assert max(t.numel() for t in others) == 2 * 8 * 4


def test_several_adapters_add_up_and_the_flag_turns_them_off(tiny_llama: Path) -> None:
    model = adapt(load(tiny_llama))
    teach(model)
    layer = model._layers[0]
    x = torch.randn(3, layer.in_features)
    with torch.no_grad():
        both, delta = layer.forward(x), layer.get_delta_weight(ACQUIRED)
        alone = layer.base_layer(x)
        torch.testing.assert_close(both, alone + x @ delta.T, rtol=1e-4, atol=1e-5)
        with model.reference_mode():
            assert torch.equal(layer.forward(x), alone)


def test_a_model_with_lean_layers_can_be_copied(tiny_llama: Path) -> None:
    # A forward bound to the layer itself would make a copy run the original's weights.
    model = adapt(load(tiny_llama))
    teach(model)
    twin = copy.deepcopy(model._layers[0])
    with torch.no_grad():
        twin.lora_B[ACQUIRED].weight.zero_()
        x = torch.randn(3, twin.in_features)
        assert torch.equal(twin.forward(x), twin.base_layer(x))
