"""The textbook is lora-sku's own mathematics: the same losses, the same updates."""

from functools import partial
from pathlib import Path

import pytest
import torch
from bench_tools import DRAWS, encoder_and_draws, make_clock, make_encoder, make_setup

from benchmarks.baselines.textbook import Textbook
from benchmarks.ours import Ours
from benchmarks.pairs import SideBySide
from benchmarks.setup import Setup


def gradients(method: Ours | Textbook, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Of the method's next step, in the order of the parameters."""
    found: list[torch.Tensor] = []

    def keep(parameters: list[torch.nn.Parameter], *_: object) -> None:
        found.extend(p.grad.clone() for p in parameters if p.grad is not None)
        for parameter in parameters:
            parameter.grad = None

    for module in ("benchmarks.ours", "benchmarks.baselines.plain"):
        monkeypatch.setattr(f"{module}.update", keep)
    method.step(1)
    return found


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_losses_and_gradients_are_ours(
    tiny_llama: Path, quantization: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = make_setup(tiny_llama, quantization, gradient_checkpointing=checkpointing)
    both = (method(setup) for method in (ours, textbook))
    first, second = both
    # One step away from theta_o, where preservation has a gradient.
    assert first.step(0).loss == pytest.approx(second.step(0).loss, rel=1e-5)
    expected, actual = (gradients(method, monkeypatch) for method in (first, second))
    assert len(expected) == len(actual) > 0
    for one, other in zip(actual, expected, strict=True):
        scale = float(other.abs().max())
        assert scale > 0
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * scale)


def ours(setup: Setup) -> Ours:
    return Ours(setup, make_encoder(setup), DRAWS, make_clock())


def textbook(setup: Setup) -> Textbook:
    return Textbook(setup, make_encoder(setup), DRAWS, make_clock())


def test_every_term_is_told(tiny_llama: Path) -> None:
    setup = make_setup(tiny_llama)
    expected, actual = ours(setup).step(0), textbook(setup).step(0)
    assert actual.terms == pytest.approx(expected.terms, rel=1e-4)
    assert actual.answer_tokens == expected.answer_tokens


def test_negation_turns_the_sign_of_the_delta(tiny_llama: Path) -> None:
    method = textbook(make_setup(tiny_llama))
    method.step(0)
    factors = {n: p.clone() for n, p in method.model.named_parameters() if "lora_B" in n}
    method.negate()
    for name, parameter in method.model.named_parameters():
        if "lora_B" in name:
            assert torch.equal(parameter, factors[name] * -1.5)


def test_side_by_side_agrees_with_itself_after_some_steps(tiny_llama: Path) -> None:
    setup = make_setup(tiny_llama, "nf4")
    with SideBySide(setup, partial(encoder_and_draws, setup), len(DRAWS)) as pair:
        timings = pair.run()
        found = pair.agreement(timings)
    assert [(t.step, t.method) for t in timings] == [
        *((0, "ours"), (0, "textbook")),
        *((1, "textbook"), (1, "ours")),
    ]
    assert found.steps == 2
    assert found.largest_change > 1e-3  # AdamW moves by about the learning rate
    assert found.relative_difference < 1e-2
    assert found.largest_loss_difference < 1e-4
