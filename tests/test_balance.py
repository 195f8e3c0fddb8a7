"""A levelled task vector costs normal answers nothing to first order, and keeps everything else."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from run_tools import ADAPTER, Killed, KilledAt, changed
from safetensors.torch import load_file
from tiny import RETAIN, adapt, load, make_encoder, teach
from torch import Tensor

from lora_sku import pipeline
from lora_sku.balance import (
    SetGradient,
    Used,
    balance,
    drawn_answers,
    half_gradients,
    without_components,
)
from lora_sku.data import Row
from lora_sku.errors import TrainingError
from lora_sku.gradients import AnswerGradients
from lora_sku.likelihood import AnswerScorer
from lora_sku.live_factors import LiveFactors
from lora_sku.model import ACQUIRED, AdaptedModel
from lora_sku.recipe import BalanceSection, Recipe

# One answer each, so that the draw takes all there is.
ROWS = [Row(prompt, answers[:1]) for prompt, answers in RETAIN.items()]
SETS = [ROWS[:3], ROWS[3:6]]


def pieces(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in ((4, 3), (5,))]


def certain(*gradients: list[Tensor]) -> list[SetGradient]:
    """Sets whose two halves say the same."""
    return [SetGradient((g, g), (g, g)) for g in gradients]


def flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts]).double()


def test_what_hurts_a_set_is_removed_or_mirrored_and_the_rest_stays() -> None:
    sets = certain(pieces(1), pieces(2))
    g = torch.stack([flat(one.mean) for one in sets])
    toward = torch.tensor([-3.0, -2.0]).double()  # negation hurts both
    vector = pieces(0)
    start = flat(vector)
    shift = g.T @ torch.linalg.solve(g @ g.T, toward - g @ start)
    vector = [part.double() for part in vector]
    flat_shift = torch.split(shift, [part.numel() for part in vector])
    vector = [part + moved.view(part.shape) for part, moved in zip(vector, flat_shift, strict=True)]
    torch.testing.assert_close(g @ flat(vector), toward)
    for amount in (1.0, 2.0, 0.5):
        found = flat(without_components(vector, sets, amount))
        torch.testing.assert_close(g @ found, (1 - amount) * toward, rtol=1e-5, atol=1e-5)
        # What was taken lies in the span of the gradients: the rest is untouched.
        taken = flat(vector) - found
        inside = g.T @ torch.linalg.lstsq(g.T, taken[:, None]).solution
        torch.testing.assert_close(inside[:, 0], taken, rtol=1e-5, atol=1e-5)
    unhurt = without_components(vector, sets, 2.0, used="added")
    torch.testing.assert_close(flat(unhurt), flat(vector))


@pytest.mark.parametrize(("used", "kept"), [("negated", 1), ("added", 0)])
def test_what_helps_a_set_stays(used: Used, kept: int) -> None:
    vector = [torch.tensor([-1.0, 1.0])]
    sets = certain([torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 1.0])])
    found = without_components(vector, sets, 2.0, used=used)[0]
    assert found[kept] == vector[0][kept]
    assert found[1 - kept] == -vector[0][1 - kept]


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    bad = [part * float("nan") for part in pieces(1)]
    with pytest.raises(TrainingError, match="not finite"):
        without_components(pieces(0), certain(pieces(2), bad), 1.0)


def test_equal_sets_count_once_and_the_vector_itself_stays() -> None:
    vector, gradient = pieces(0), pieces(1)
    if flat(gradient) @ flat(vector) > 0:
        vector = [-part for part in vector]
    before = [part.clone() for part in vector]
    once = without_components(vector, certain(gradient), 1.0)
    twice = without_components(vector, certain(gradient, list(gradient)), 1.0)
    torch.testing.assert_close(flat(once), flat(twice), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(part, same) for part, same in zip(vector, before, strict=True))


def test_what_other_answers_feel_is_removed_not_what_the_drawn_ones_do() -> None:
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(4000, generator=generator)
    noise = [torch.randn(4000, generator=generator) * 1.5 for _ in range(2)]
    vector = torch.randn(4000, generator=generator) - 0.2 * true
    halves = [true + noise[0]], [true + noise[1]]
    (found,) = without_components([vector], [SetGradient(halves, halves)], 1.0)
    before = float(true @ vector)
    assert before < -500
    assert float(true @ found) == pytest.approx(0, abs=0.15 * -before)
    drawn_only = certain([true + (noise[0] + noise[1]) / 2])
    (not_enough,) = without_components([vector], drawn_only, 1.0)
    assert float(true @ not_enough) < 0.3 * before


def test_halves_that_do_not_agree_are_not_believed_beyond_a_bound() -> None:
    halves = [torch.tensor([1.0, 1.0])], [torch.tensor([1.0, -1.0])]  # no product at all
    vector = [torch.tensor([-1.0, 0.0])]
    (found,) = without_components(vector, [SetGradient(halves, halves)], 1.0)
    torch.testing.assert_close(found, torch.tensor([3.0, 0.0]))  # four times what the drawn feel


def test_the_measure_says_along_what_it_is_removed() -> None:
    gradient, step = [torch.tensor([1.0, 1.0])], [torch.tensor([0.0, 2.0])]
    sets = [SetGradient((gradient, gradient), (step, step))]
    (found,) = without_components([torch.tensor([-3.0, 1.0])], sets, 1.0)
    torch.testing.assert_close(found, torch.tensor([-3.0, 3.0]))


@pytest.fixture
def taught(tiny_llama: Path) -> AdaptedModel:
    model = adapt(load(tiny_llama))
    teach(model)
    model.peft_model.eval()
    return model


def gradients_of(model: AdaptedModel, pairs_at_once: int = 2) -> AnswerGradients:
    encoder = make_encoder(model.base)
    return AnswerGradients(model, ACQUIRED, encoder, pairs_at_once=pairs_at_once, where="here")


def level(model: AdaptedModel, *, pairs_at_once: int = 2, seed: int = 0, **keys: float) -> None:
    gradients = gradients_of(model, pairs_at_once)
    section = BalanceSection.model_validate(keys)
    balance(gradients, SETS, section, seed=seed, used="added")


def test_the_halves_are_of_different_answers_and_one_answer_is_both(taught: AdaptedModel) -> None:
    gradients = gradients_of(taught)
    everything, single = half_gradients(
        gradients, drawn_answers([ROWS[:4], ROWS[4:5]], BalanceSection(), seed=0)
    )
    assert not torch.equal(flat(everything[0]), flat(everything[1]))
    assert torch.equal(flat(single[0]), flat(single[1]))
    mean = gradients.mean([(row.prompt, row.answers[0]) for row in ROWS[4:5]])
    torch.testing.assert_close(flat(single[0]), flat(mean))


def slopes(model: AdaptedModel) -> list[float]:
    """How fast the NLL of each set rises with the strength of the negation, at 0."""
    live, small, found = LiveFactors(model, ACQUIRED), 1e-2, []
    for rows in SETS:
        scorer = AnswerScorer(model, make_encoder(model.base), rows, pairs_at_once=8)
        live.negate(small)
        above = scorer.score().nll
        live.negate(-small)
        found.append((above - scorer.score().nll) / (2 * small))
    live.restore()
    return found


def test_the_first_order_cost_of_drawn_answers_is_gone_and_more(taught: AdaptedModel) -> None:
    before = slopes(taught)
    assert max(before) < -0.02  # adding this vector costs both sets
    level(taught, amount=1.0)
    for slope, was in zip(slopes(taught), before, strict=True):
        # At least all that the drawn ones feel, at most four times.
        assert -0.1 * abs(was) < slope < 3.2 * abs(was)


def test_the_first_order_cost_of_single_answers_is_gone(
    taught: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("test_balance.SETS", [ROWS[:1], ROWS[3:4]])
    before = slopes(taught)
    level(taught)
    assert max(map(abs, before)) > 0.02
    for slope, was in zip(slopes(taught), before, strict=True):
        assert slope == pytest.approx(max(was, 0), abs=0.05 * abs(was))


def test_only_b_changes_and_no_gradient_is_left(taught: AdaptedModel) -> None:
    before = {name: p.detach().clone() for name, p in taught.adapter_parameters().items()}
    level(taught)
    for name, parameter in taught.adapter_parameters().items():
        assert torch.equal(parameter, before[name]) == (".lora_A." in name), name
        assert parameter.grad is None
        assert parameter.requires_grad


def test_the_result_depends_neither_on_the_pieces_nor_on_a_second_draw(tiny_llama: Path) -> None:
    found = []
    for pairs_at_once in (1, 8, 8):
        model = adapt(load(tiny_llama))
        teach(model)
        level(model, pairs_at_once=pairs_at_once)
        found.append(flat([p.detach() for p in model.adapter_parameters().values()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert torch.equal(found[1], found[2])


def test_the_seed_draws_prompts(tiny_llama: Path) -> None:
    found = []
    for seed in (0, 1):
        model = adapt(load(tiny_llama))
        teach(model)
        level(model, prompts=1, seed=seed)
        found.append(flat([p.detach() for p in model.adapter_parameters().values()]))
    assert not torch.allclose(found[0], found[1])


def test_a_run_levels_its_vector_once_resumed_or_not(recipe: Recipe, tmp_path: Path) -> None:
    def with_balance(balance: dict[str, float] | None) -> Recipe:
        return changed(recipe, negation={"keep_harmful_adapter": True, "balance": balance})

    plain = pipeline.run(with_balance(None), output=tmp_path / "plain")
    whole = pipeline.run(with_balance({"amount": 1.5}), output=tmp_path / "whole")
    levelled = with_balance({"amount": 1.5})
    with pytest.raises(Killed):
        pipeline.run(levelled, progress=KilledAt(step=3))
    resumed = pipeline.run(levelled, resume=True)
    one, other, again = (load_file(r.adapter / ADAPTER) for r in (plain, whole, resumed))
    assert all(torch.equal(value, again[key]) for key, value in other.items())
    for key, value in one.items():
        assert torch.equal(value, other[key]) == (".lora_A." in key), key
    for page in ("adapter/README.md", "report.html"):
        for run, levelled in (("plain", False), ("whole", True)):
            text = (tmp_path / run / page).read_text(encoding="utf-8")
            assert ("levelled on the normal sets" in text) == levelled
    kept = load_file(tmp_path / "whole" / "harmful-adapter" / ADAPTER)
    strength = recipe.negation.strength
    assert isinstance(strength, float)
    scaling = recipe.adapter.lora_alpha / recipe.adapter.r
    for key, value in kept.items():
        if ".lora_B." in key:
            torch.testing.assert_close(other[key], -strength * scaling * value)
