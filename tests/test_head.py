"""Logits of every architecture's head, and the gradient towards what it reads."""

import pytest
import torch

from lora_sku.head import Head

KINDS = {
    "plain": {},
    "bias": {"bias_V": torch.tensor([0.5, -1.0, 2.0])},
    "scale": {"scale": 0.25},
    "softcap": {"softcap": 1.5},
    "everything": {"bias_V": torch.tensor([0.5, -1.0, 2.0]), "scale": 0.25, "softcap": 1.5},
}


def test_logits_worked_by_hand() -> None:
    head = Head(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1.0, 0.0]), 0.5, 2.0)
    expected = [2 * torch.tanh(torch.tensor(z / 2)).item() for z in (0.5 * 4.0, 0.5 * 7.0)]
    assert head.logits(torch.ones(1, 2))[0].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_autograds(kind: str) -> None:
    torch.manual_seed(0)
    head = Head(torch.randn(3, 4), **KINDS[kind])
    hidden_CD, grad_CV = torch.randn(2, 4, requires_grad=True), torch.randn(2, 3)
    logits_CV = head.logits(hidden_CD)
    logits_CV.backward(grad_CV)
    found_CD = head.pull_back(grad_CV.clone(), head.slope(logits_CV.detach()))
    assert hidden_CD.grad is not None
    torch.testing.assert_close(found_CD, hidden_CD.grad)


def test_logits_are_float32_and_gradients_the_weights_own() -> None:
    head = Head(torch.randn(3, 4).bfloat16())
    assert head.logits(torch.randn(2, 4)).dtype == torch.float32
    assert head.pull_back(torch.randn(2, 3), None).dtype == torch.bfloat16
