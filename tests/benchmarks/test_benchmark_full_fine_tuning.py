"""Both ways of full fine-tuning: the same losses and updates; the negation is the task vector's."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench_tools import DRAWS, make_clock, make_encoder, make_setup
from torch import Tensor

from benchmarks.baselines.full import Full
from benchmarks.baselines.plain import load_unquantized
from benchmarks.baselines.published import Published, negated_state
from benchmarks.ours import Ours
from benchmarks.setup import Setup

METHODS = (Published, Full)


@pytest.fixture
def setup(tiny_llama: Path) -> Setup:
    return make_setup(tiny_llama)


def build(method: type[Published | Full | Ours], setup: Setup) -> Published | Full | Ours:
    return method(setup, make_encoder(setup), DRAWS, make_clock())


def weights(method: Published | Full) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in method.model.named_parameters()}


def original(setup: Setup) -> dict[str, Tensor]:
    model = load_unquantized(setup.folder, setup.dtype, setup.device, trained=False)
    return dict(model.named_parameters())


@pytest.mark.parametrize("method", METHODS)
def test_the_first_losses_are_ours(setup: Setup, method: type[Published | Full]) -> None:
    expected, actual = build(Ours, setup).step(0), build(method, setup).step(0)
    assert actual.terms == pytest.approx(expected.terms, rel=1e-4, abs=1e-6)
    assert actual.loss == pytest.approx(expected.loss, rel=1e-4)
    assert actual.answer_tokens == expected.answer_tokens


def test_lean_and_published_make_the_same_updates(setup: Setup) -> None:
    lean, published = build(Full, setup), build(Published, setup)
    start = original(setup)
    for number in range(2):
        # The second step's divergence is taken from theta_o, which the first one left.
        expected, actual = published.step(number), lean.step(number)
        assert actual.terms == pytest.approx(expected.terms, rel=1e-3, abs=1e-6)
    assert actual.terms["preservation_divergence"] > 0
    for name, weight in weights(lean).items():
        change = weights(published)[name] - start[name]
        difference = weight - weights(published)[name]
        assert difference.norm() < 0.02 * change.norm()


@pytest.mark.parametrize("method", METHODS)
def test_negation_takes_the_task_vector_away(setup: Setup, method: type[Published | Full]) -> None:
    tuned = build(method, setup)
    tuned.step(0)
    bad, start = weights(tuned), original(setup)
    tuned.negate()
    for name, weight in weights(tuned).items():
        assert not torch.equal(bad[name], start[name])
        expected = start[name] - 1.5 * (bad[name] - start[name])
        torch.testing.assert_close(weight, expected)


def test_negated_state_of_numbers() -> None:
    bad, start = {"w": torch.tensor([3.0])}, {"w": torch.tensor([1.0])}
    assert negated_state(bad, start, strength=2.0)["w"].item() == -3.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("term", "change", "told"),
    [
        ("preservation_divergence", {"direction": "diverge"}, "acquired side only"),
        ("preservation_divergence", {"side": "both"}, "acquired side only"),
        ("random_disassociation", {"reduction": "sum"}, "mean only"),
        ("safe_response", {"weight": 1.0}, "three losses only"),
        ("held_responses", {"weight": 1.0}, "three losses only"),
    ],
)
def test_what_is_not_the_papers_is_refused(
    setup: Setup,
    method: type[Published | Full],
    term: str,
    change: dict[str, object],
    told: str,
) -> None:
    changed = getattr(setup.losses, term).model_copy(update=change)
    section = setup.losses.model_copy(update={term: changed})
    tuned = build(method, replace(setup, losses=section))
    with pytest.raises(ValueError, match=told):
        tuned.step(0)
