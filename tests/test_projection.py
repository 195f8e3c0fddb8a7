"""The projected factor is the minimum of what it says, formed either way."""

from collections.abc import Iterator

import pytest
import torch
from tiny import adapt, teach
from torch import Tensor

from lora_sku.activations import InputSample
from lora_sku.model import Base
from lora_sku.projection import RIDGE, Projector, projected_rows

FEATURES, RANK, OUT = 24, 3, 10
TOKENS = {"by features": (40, 30), "by tokens": (9, 7), "at the border": (12, 12)}


def inputs(forget: int, retain: int, features: int = FEATURES) -> tuple[Tensor, Tensor]:
    """Two sets that share half of their directions, in float64."""
    torch.manual_seed(0)
    mix = torch.randn(features, features, dtype=torch.float64)
    forget_FI = torch.randn(forget, features, dtype=torch.float64) @ mix
    retain_NI = torch.randn(retain, features, dtype=torch.float64) @ mix.roll(1, 0) * 3
    return forget_FI, retain_NI


def factors() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return (
        torch.randn(RANK, FEATURES, dtype=torch.float64),
        torch.randn(OUT, RANK, dtype=torch.float64),
    )


def dense(a: Tensor, forget: Tensor, retain: Tensor, mu: float) -> Tensor:
    """A C_f M^-1, written down."""
    c_f, c_r = forget.T @ forget / len(forget), retain.T @ retain / len(retain)
    rho = RIDGE * c_f.trace() / len(c_f)
    return a @ c_f @ torch.linalg.inv(c_f + mu * c_r + rho * torch.eye(len(c_f)).double())


@pytest.mark.parametrize("mu", [0.0, 0.3, 30.0, 1e4])
@pytest.mark.parametrize("tokens", TOKENS.values(), ids=TOKENS)
def test_it_is_the_closed_form(tokens: tuple[int, int], mu: float) -> None:
    forget, retain = inputs(*tokens)
    a, _ = factors()
    projected = Projector(forget, retain).project(a, mu)
    # The inverse that is compared with is off by this much at the largest mu.
    torch.testing.assert_close(projected, dense(a, forget, retain, mu), rtol=1e-5, atol=1e-5)


def test_features_come_in_chunks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_sku.projection._CHUNK_FEATURES", 7)
    forget, retain = inputs(9, 7)
    a, _ = factors()
    expected = dense(a, forget, retain, 5.0)
    torch.testing.assert_close(Projector(forget, retain).project(a, 5.0), expected)


def test_no_other_delta_does_better() -> None:
    forget, retain = inputs(40, 30)
    a, b = factors()
    mu = 2.0
    rho = RIDGE * float(forget.square().sum()) / len(forget) / FEATURES

    def objective(changed: Tensor) -> float:
        missed = ((changed - b @ a) @ forget.T).square().sum() / len(forget)
        felt = (changed @ retain.T).square().sum() / len(retain)
        return float(missed + mu * felt + rho * changed.square().sum())

    best = b @ Projector(forget, retain).project(a, mu)
    for seed in range(20):
        torch.manual_seed(seed)
        assert objective(best + 1e-3 * torch.randn_like(best)) > objective(best)
    assert objective(best) < objective(b @ a)


@pytest.mark.parametrize("tokens", TOKENS.values(), ids=TOKENS)
def test_without_mu_forget_inputs_feel_the_whole_task_vector(tokens: tuple[int, int]) -> None:
    forget, retain = inputs(*tokens)
    a, _ = factors()
    projected = Projector(forget, retain).project(a, 0.0)
    kept, whole = projected @ forget.T, a @ forget.T
    assert (kept - whole).norm() < 1e-2 * whole.norm()


def test_a_large_mu_ends_the_effect_on_retain_inputs_and_spares_the_rest() -> None:
    # Retain inputs leave half of the features free.
    forget, retain = inputs(40, 30)
    retain[:, FEATURES // 2 :] = 0
    a, _ = factors()
    projector = Projector(forget, retain)
    before = (a @ retain.T).norm()
    effects = [float((projector.project(a, mu) @ retain.T).norm() / before) for mu in (1, 1e3, 1e6)]
    assert effects == sorted(effects, reverse=True)
    assert effects[-1] < 1e-5
    spared = projector.project(a, 1e6) @ forget.T
    assert spared.norm() > 0.3 * (a @ forget.T).norm()


def test_mu_has_no_unit() -> None:
    forget, retain = inputs(40, 30)
    a, _ = factors()
    once = Projector(forget, retain).project(a, 3.0)
    # Other units, and each token twice: means and shares do not change.
    doubled = Projector(100 * forget.repeat(2, 1), 100 * retain).project(a, 3.0)
    torch.testing.assert_close(doubled, once)


def test_the_result_has_the_factors_dtype() -> None:
    forget, retain = (x.bfloat16() for x in inputs(9, 7))
    a = factors()[0].float()
    projected = Projector(forget, retain).project(a, 3.0)
    assert projected.dtype == torch.float32
    expected = dense(a.double(), forget.double(), retain.double(), 3.0)
    torch.testing.assert_close(projected.double(), expected, rtol=1e-5, atol=1e-6)


def test_every_module_of_a_sample_is_projected_for_every_mu(base: Base) -> None:
    model = adapt(base, target_modules=["q_proj", "k_proj", "down_proj"])
    teach(model)
    width = {"q_proj": 64, "k_proj": 64, "down_proj": 128}
    rows = {name: torch.randn(4, features) for name, features in width.items()}
    taken: list[str] = []

    def samples() -> Iterator[InputSample]:
        for modules in (("q_proj", "k_proj"), ("down_proj",)):
            taken.append(modules[0])
            yield InputSample(modules, *inputs(9, 7, width[modules[0]]))

    projected = projected_rows(rows, samples(), (1.0, 10.0), torch.device("cpu"))
    assert taken == ["q_proj", "down_proj"]
    assert projected.keys() == {1.0, 10.0}
    for mu, by_module in projected.items():
        assert by_module.keys() == rows.keys()
        for name, row in by_module.items():
            expected = Projector(*inputs(9, 7, width[name])).project(rows[name], mu)
            assert torch.equal(row, expected)
