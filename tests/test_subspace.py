"""The directions are the generalized eigenvectors that they claim to be, and stay as they are."""

from pathlib import Path
from typing import Any

import pytest
import torch
from run_tools import ADAPTER, Killed, KilledAt, changed
from safetensors.torch import load_file
from tiny import adapt, load, make_encoder, write_data
from torch import Tensor

from lora_sku import pipeline, subspace
from lora_sku.data import load_data
from lora_sku.losses import token_nll
from lora_sku.model import ACQUIRED, AdaptedModel
from lora_sku.recipe import Recipe, SubspaceSection
from lora_sku.subspace import RIDGE, fix_subspace, selective_directions

RANK = 5
# Both of the projector's ways: by features and by tokens.
SHAPES = {"narrow": (90, 40), "wide": (30, 200)}


def inputs(tokens: int, features: int) -> tuple[Tensor, Tensor]:
    """Two sets with energy in different, overlapping directions."""
    torch.manual_seed(0)
    forget = torch.randn(tokens, features) * torch.logspace(0.5, -1, features)
    retain = torch.randn(tokens, features) * torch.logspace(-1, 0.5, features).roll(features // 4)
    return forget, retain


def moments(forget: Tensor, retain: Tensor) -> tuple[Tensor, Tensor]:
    """C_f, and C_r with its ridge, written down."""
    c_f, c_r = (x.double().T @ x.double() / len(x) for x in (forget, retain))
    return c_f, c_r + RIDGE * c_r.trace() / len(c_r) * torch.eye(len(c_r)).double()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_they_are_the_leading_generalized_eigenvectors(shape: tuple[int, int]) -> None:
    forget, retain = inputs(*shape)
    found = selective_directions(forget, retain, rank=RANK, seed=0)
    c_f, c_r = moments(forget, retain)
    expected = torch.linalg.eigvals(torch.linalg.solve(c_r, c_f)).real.sort(descending=True)[0]
    energy_f, energy_r = found @ c_f @ found.T, found @ c_r @ found.T
    torch.testing.assert_close(
        energy_f.diagonal() / energy_r.diagonal(), expected[:RANK], rtol=0.02, atol=0
    )
    # Equal retain energies, and no two directions share any of it.
    torch.testing.assert_close(
        energy_r / energy_r[0, 0], torch.eye(RANK).double(), rtol=0, atol=1e-6
    )


def test_forget_inputs_answer_as_strongly_as_to_a_random_a() -> None:
    forget, retain = inputs(400, 40)
    found = selective_directions(forget, retain, rank=RANK, seed=0)
    energies = []
    for seed in range(40):
        torch.manual_seed(seed)
        usual = torch.nn.Linear(40, RANK, bias=False)  # as PEFT begins: Kaiming, a = sqrt(5)
        energies.append(float((forget @ usual.weight.T).square().mean()))
    own = float((forget.double() @ found.T).square().mean())
    assert own == pytest.approx(sum(energies) / len(energies), rel=0.1)


def test_other_draws_find_the_same() -> None:
    forget, retain = inputs(90, 40)
    one, other = (selective_directions(forget, retain, rank=RANK, seed=s) for s in (0, 1))
    torch.testing.assert_close(one.abs(), other.abs(), rtol=0.02, atol=1e-3)
    again = selective_directions(forget, retain, rank=RANK, seed=0)
    assert torch.equal(one, again)


@pytest.fixture
def fixed(tiny_llama: Path, tmp_path: Path) -> AdaptedModel:
    model = adapt(load(tiny_llama))
    encoder = make_encoder(model.base)
    data = load_data(write_data(tmp_path), encoder)
    fix_subspace(
        model,
        ACQUIRED,
        data.forget.train,
        [data.retain.train],
        encoder,
        SubspaceSection(tokens=60, discriminants=None),
        rows=4,
        seed=0,
    )
    return model


def rows_of(model: AdaptedModel) -> dict[str, Tensor]:
    return {n: p for n, p in model.adapter_parameters().items() if ".lora_A." in n}


def test_only_b_is_trained_and_layers_with_one_input_share_their_directions(
    fixed: AdaptedModel,
) -> None:
    trained = fixed.trained_parameters()
    assert all(".lora_B." in name for name in trained)
    assert len(trained) == len(rows_of(fixed)) == len(fixed.adapter_parameters()) / 2 > 0
    rows = rows_of(fixed)
    queries = [name for name in rows if "q_proj" in name]
    for name in queries:
        assert torch.equal(rows[name], rows[name.replace("q_proj", "v_proj")])
        assert not torch.equal(rows[name], rows[name.replace("q_proj", "o_proj")])
    assert not torch.equal(rows[queries[0]], rows[queries[1]])
    ids = torch.arange(12)[None]
    with torch.no_grad():
        states = fixed.hidden_states(ids)
        with fixed.reference_mode():
            assert torch.equal(states, fixed.hidden_states(ids))  # the delta starts at 0


def test_no_input_is_kept_for_a_fixed_a(fixed: AdaptedModel) -> None:
    ids = torch.arange(64).view(2, 32)

    def kept(model: AdaptedModel) -> int:
        sizes: list[int] = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.nbytes) or tensor, lambda tensor: tensor
        )
        with hooks:
            states = model.hidden_states(ids)
        targets = torch.zeros(len(states.flatten(0, 1)), dtype=torch.int64)
        token_nll(states.flatten(0, 1), targets, model.base.head).sum().backward()
        return sum(sizes)

    lean = kept(fixed)
    assert all(p.grad is None for p in rows_of(fixed).values())
    assert all(p.grad is not None for p in fixed.trained_parameters().values())
    for row in rows_of(fixed).values():
        row.requires_grad_(True)
    assert lean < 0.8 * kept(fixed)


def test_a_run_keeps_the_subspace_and_resumes_without_finding_it_again(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = changed(
        recipe,
        adapter={"subspace": {"tokens": 60}, "r": 6},  # discriminants and selective directions
        negation={"keep_harmful_adapter": True},
    )
    sampled: list[Any] = []
    real = subspace.sample_sets

    def spy(*args: Any, **keys: Any) -> Any:
        sampled.append(args)
        return real(*args, **keys)

    monkeypatch.setattr(subspace, "sample_sets", spy)
    whole = pipeline.run(recipe, output=tmp_path / "whole")
    assert "subspace" in whole.memory
    written = load_file(tmp_path / "whole" / "harmful-adapter" / ADAPTER)
    a = {n: t for n, t in written.items() if ".lora_A." in n}
    for name in a:
        if "q_proj" in name:
            assert torch.equal(a[name], a[name.replace("q_proj", "k_proj")])
    with pytest.raises(Killed):
        pipeline.run(recipe, progress=KilledAt(step=3))
    assert len(sampled) == 2
    result = pipeline.run(recipe, resume=True)
    assert len(sampled) == 2
    weights = [load_file(r.adapter / ADAPTER) for r in (whole, result)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
