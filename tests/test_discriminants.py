"""Fisher's discriminants: the formula, the stretches they are drawn from, the rows they become."""

import random
from pathlib import Path

import pytest
import torch
from run_tools import ADAPTER, changed
from safetensors.torch import load_file
from test_activations import true_inputs
from tiny import adapt, load, make_encoder, write_data
from torch import Tensor

from lora_sku import pipeline
from lora_sku.data import Encoder, Row, load_data
from lora_sku.discriminants import (
    FLOOR,
    RIDGE,
    STRETCHES,
    discriminant,
    discriminant_rows,
    draw_stretches,
    ridge_solve,
)
from lora_sku.model import ACQUIRED, AdaptedModel
from lora_sku.recipe import DataSection, DiscriminantsSection, Recipe, SubspaceSection
from lora_sku.subspace import fix_subspace


def inputs(features: int) -> tuple[Tensor, Tensor, Tensor]:
    """Forget inputs, normal ones, and which of those lie in the stretch; means are apart."""
    torch.manual_seed(0)
    forget = torch.randn(40, features) + torch.linspace(0, 1.5, features)
    normal = torch.randn(90, features) * torch.logspace(-0.5, 0.5, features)
    return forget, normal, torch.arange(90) % 3 == 0


@pytest.mark.parametrize("features", [12, 300], ids=["narrow", "wide"])
def test_it_is_fishers_formula(features: int) -> None:
    forget, normal, stretch = inputs(features)
    f, n, own = forget.double(), normal.double(), normal[stretch].double()
    m = own.T @ own / len(own) + torch.cov(f.T, correction=0) / 2 + n.T @ n / len(n)
    rho = RIDGE * own.var(0, correction=0).mean() + FLOOR * n.square().mean()
    expected = torch.linalg.solve(m + rho * torch.eye(features), f.mean(0) - own.mean(0))
    found = discriminant(forget, normal, stretch)
    assert found.dtype == torch.float64
    torch.testing.assert_close(
        found / found.norm(), expected / expected.norm(), rtol=1e-4, atol=1e-5
    )
    # As strong on forget inputs as PEFT's random A, whose weights have variance 1 / (3 I).
    assert float((f @ found).square().mean() / (f.square().mean() / 3)) == pytest.approx(1, 1e-4)


def test_it_tells_fresh_texts_by_their_sign() -> None:
    forget, normal, stretch = inputs(12)
    found = discriminant(forget, normal, stretch).float()
    torch.manual_seed(1)
    fresh = torch.randn(200, 12) + torch.linspace(0, 1.5, 12)
    usual = torch.randn(200, 12) * torch.logspace(-0.5, 0.5, 12)
    above = float(((fresh @ found)[:, None] > usual @ found).float().mean())
    assert above > 0.85
    # No bias is needed: a usual text gets no answer on average.
    assert abs(float((usual @ found).mean())) < 0.2 * float((fresh @ found).mean())


def test_what_tells_nothing_is_zero() -> None:
    forget, normal, stretch = inputs(12)
    assert not discriminant(forget[:0], normal, stretch).any()
    assert not discriminant(forget, normal, torch.zeros_like(stretch)).any()
    # A layer's input at a token of the template before anything could look at the prompt.
    same = torch.full((90, 12), 0.1)
    assert not discriminant(same[:40], same, stretch).any()
    # Several such tokens, and by chance not as many of each on both sides.
    torch.manual_seed(0)
    tokens = torch.randn(4, 12)
    drawn = [tokens[torch.randint(4, (count,))] for count in (40, 90)]
    assert not discriminant(*drawn, stretch).any()


def test_solving_by_features_and_by_tokens_is_the_same() -> None:
    torch.manual_seed(0)
    for shape in ((30, 7), (7, 30)):
        rows, target = torch.randn(shape), torch.randn(shape[1], dtype=torch.float64)
        m = rows.double().T @ rows.double() + 0.5 * torch.eye(shape[1])
        solved = ridge_solve(rows, 0.5, target)
        torch.testing.assert_close(m @ solved, target, rtol=1e-5, atol=1e-5)


@pytest.fixture
def encoder(tiny_llama: Path) -> Encoder:
    return make_encoder(load(tiny_llama))


def test_positions_lie_in_their_stretches(encoder: Encoder) -> None:
    rows = [Row("a prompt of some length", ("an answer that is longer than four tokens",))]
    drawn = draw_stretches([rows, rows], encoder, 5, random.Random(0))
    prompt = len(encoder.prompt_ids(rows[0].prompt)[0])
    length = len(drawn.texts.ids[0])
    assert length == len(encoder.encode(rows[0].prompt, rows[0].answers[0]).input_ids) - 1
    bounds = {
        0: (prompt - 1, prompt),
        1: (prompt, prompt + 4),
        2: (prompt + 4, length),
        3: (prompt - 5, prompt - 1),
        STRETCHES: (0, prompt - 5),
    }
    assert {n for n, _ in drawn.texts.drawn} == {0, 1}
    assert set(drawn.stretch_P.tolist()) == set(bounds)
    for (_, place), stretch in zip(drawn.texts.drawn, drawn.stretch_P.tolist(), strict=True):
        low, high = bounds[stretch]
        assert low <= place < high


def test_an_answer_of_one_token_has_no_rest(encoder: Encoder) -> None:
    drawn = draw_stretches([[Row("a prompt", ("",))]], encoder, 5, random.Random(0))
    assert set(drawn.stretch_P.tolist()) == {0, 3, STRETCHES}


def fixed(folder: Path, data: DataSection, rank: int, section: SubspaceSection) -> AdaptedModel:
    model = adapt(load(folder), r=rank)
    encoder = make_encoder(model.base)
    loaded = load_data(data, encoder)
    sets = (loaded.forget.train, [loaded.retain.train])
    fix_subspace(model, ACQUIRED, *sets, encoder, section, rows=4, seed=0)
    return model


def rows_of(model: AdaptedModel) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in model.adapter_parameters().items() if ".lora_A." in n}


def test_they_are_the_last_rows_and_the_others_stay_selective(
    tiny_llama: Path, tmp_path: Path
) -> None:
    data = write_data(tmp_path)
    without = SubspaceSection(tokens=60, discriminants=None)
    both = rows_of(fixed(tiny_llama, data, 6, SubspaceSection(tokens=60)))
    selective = rows_of(fixed(tiny_llama, data, 2, without))
    alone = rows_of(fixed(tiny_llama, data, 4, SubspaceSection(tokens=60)))
    fewer = rows_of(fixed(tiny_llama, data, 1, SubspaceSection(tokens=60)))
    for name, rows in both.items():
        assert rows.shape[0] == 6
        assert torch.equal(rows[:2], selective[name])
        assert torch.equal(rows[2:], alone[name])
        assert torch.equal(rows[-1:], fewer[name])


def test_each_row_is_the_discriminant_of_its_own_stretch(tiny_llama: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path)
    section = SubspaceSection(discriminants=DiscriminantsSection(prompts=6))
    rows = rows_of(fixed(tiny_llama, data, 4, section))
    encoder = make_encoder(load(tiny_llama))
    loaded, rng = load_data(data, encoder), random.Random("0 stretches")
    harmful = draw_stretches([loaded.forget.train], encoder, 6, rng)
    usual = draw_stretches([loaded.retain.train], encoder, 6, rng)
    path = "model.layers.1.self_attn.v_proj"
    forget, normal = (true_inputs(tiny_llama, path, drawn.texts) for drawn in (harmful, usual))
    (found,) = (of for name, of in rows.items() if f"{path}.lora_A" in name)
    for number in range(STRETCHES):
        expected = discriminant(
            forget[harmful.stretch_P == number], normal, usual.stretch_P == number
        )
        torch.testing.assert_close(found[-1 - number], expected.float(), rtol=1e-3, atol=1e-4)


def test_few_ranks_are_all_discriminants_and_sample_nothing_else(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("no selective direction is wanted")

    monkeypatch.setattr("lora_sku.subspace.sample_sets", never)
    section = SubspaceSection(discriminants=DiscriminantsSection(prompts=3))
    rows = rows_of(fixed(tiny_llama, write_data(tmp_path), 4, section))
    assert all(row.any(1).all() for name, row in rows.items() if "layers.1" in name)
    assert [discriminant_rows(rank) for rank in (1, 4, 16)] == [1, 4, 4]


def test_a_row_that_reads_nothing_learns_nothing(recipe: Recipe, tmp_path: Path) -> None:
    # All prompts end alike, so that the first layer cannot tell them there.
    recipe = changed(
        recipe,
        adapter={"r": 1, "subspace": {}},
        training={"natural_step": {"pairs": 8, "tokens": 60}},
    )
    factors = load_file(pipeline.run(recipe, output=tmp_path / "run").adapter / ADAPTER)
    for half in ("A", "B"):
        of = {n: t for n, t in factors.items() if f".lora_{half}." in n and "q_proj" in n}
        nothing, something = (of[name] for name in sorted(of))
        assert not nothing.any()
        assert something.any()
