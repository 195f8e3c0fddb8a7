"""One step from theta_o: its direction, its size, its draws, and a whole run with it."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from run_tools import ADAPTER, Killed, changed
from safetensors.torch import load_file
from tiny import FORGET, RETAIN, adapt, load, make_encoder
from torch import Tensor

from lora_sku import pipeline
from lora_sku.curvature import natural
from lora_sku.data import Row, StepSampler, draw_pairs
from lora_sku.errors import TrainingError
from lora_sku.gradients import AnswerGradients, product
from lora_sku.likelihood import AnswerScorer, Likelihood
from lora_sku.live_factors import LiveFactors
from lora_sku.model import ACQUIRED, AdaptedModel
from lora_sku.natural_step import _harm, natural_step
from lora_sku.progress import Silent
from lora_sku.recipe import BalanceSection, LossesSection, NaturalStepSection, Recipe

HARMFUL = [Row(prompt, answers) for prompt, answers in FORGET.items()]
NORMAL = [Row(prompt, answers) for prompt, answers in RETAIN.items()]


def flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.detach().flatten() for part in parts])


def losses(own: float = 1.0, others: float = 0.0, preserved: float = 1.0) -> LossesSection:
    return LossesSection.model_validate(
        {
            "guided_distortion": {"weight": own},
            "random_disassociation": {"weight": others},
            "preservation_divergence": {"weight": preserved},
        }
    )


def stepped(
    model: AdaptedModel,
    weights: LossesSection,
    *,
    levelling: BalanceSection | None = None,
    normal: tuple[list[Row], ...] = (NORMAL,),
    seed: int = 0,
    **keys: Any,
) -> Tensor:
    """B after the step, of a fresh adapter on the model's base."""
    gradients = AnswerGradients(
        model, ACQUIRED, make_encoder(model.base), pairs_at_once=4, where="here"
    )
    section = NaturalStepSection.model_validate({"pairs": 24, "tokens": 200} | keys)
    natural_step(gradients, HARMFUL, normal, weights, section, levelling, seed=seed)
    return flat(gradients.factors)


@pytest.fixture
def model(tiny_llama: Path) -> AdaptedModel:
    return adapt(load(tiny_llama))


def test_it_is_the_minimum_of_the_second_order_model(model: AdaptedModel) -> None:
    found = stepped(model, losses(own=2.0, others=0.5, preserved=4.0))
    gradients = AnswerGradients(
        model, ACQUIRED, make_encoder(model.base), pairs_at_once=4, where="here"
    )
    # 24 pairs in the proportion of the weights, 2 : 0.5.
    draw = StepSampler(HARMFUL, HARMFUL, prompts_per_step=19, responses=0, seed=0).draw(0)
    own = gradients.mean(draw.forget)
    draw = StepSampler(HARMFUL, HARMFUL, prompts_per_step=5, responses=1, seed=0).draw(0)
    others = gradients.mean([pair for group in draw.random for pair in group])
    slope = [2.0 * a + 0.5 * b for a, b in zip(own, others, strict=True)]
    pairs = draw_pairs(NORMAL, 12, random.Random(0))
    expected = natural(gradients, pairs, [slope], tokens=200, damping=0.1, seed=0)[0]
    direction = -flat(expected) / flat(expected).norm()
    torch.testing.assert_close(found / found.norm(), direction, rtol=1e-3, atol=1e-5)
    # Along it, <g, d> t + w KL(t) has its minimum at the length: both halves of a step around it
    # cost the same. KL is that of the drawn pairs, at the model as it is.
    rows = [Row(prompt, (answer,)) for prompt, answer in pairs]
    scorer = AnswerScorer(model, gradients.encoder, rows, pairs_at_once=4)
    unit = [-piece / flat(expected).norm() for piece in expected]
    small = 0.2 * found.norm()
    gradients.write([piece * small for piece in unit])
    bend = 2 * scorer.score().kl / float(small) ** 2
    assert float(found.norm()) == pytest.approx(-product(slope, unit) / (4.0 * bend), rel=0.3)


def test_weights_scale_it(model: AdaptedModel) -> None:
    once = stepped(model, losses())
    torch.testing.assert_close(stepped(model, losses(own=3.0)), 3 * once, rtol=1e-3, atol=1e-6)
    halved = stepped(model, losses(preserved=2.0))
    torch.testing.assert_close(halved, once / 2, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(stepped(model, losses(others=1.0)), once, rtol=1e-2)


def test_the_seed_draws(model: AdaptedModel) -> None:
    one, same, other = (stepped(model, losses(), seed=seed, pairs=6) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_each_prompt_comes_once_before_one_comes_twice(model: AdaptedModel) -> None:
    rows = [Row(row.prompt, row.answers[:1]) for row in HARMFUL]

    def harm(pairs: int) -> Tensor:
        gradients = AnswerGradients(
            model, ACQUIRED, make_encoder(model.base), pairs_at_once=4, where="here"
        )
        return flat(_harm(gradients, rows, losses(), pairs, seed=0))

    whole = harm(len(rows))
    torch.testing.assert_close(harm(2 * len(rows)), whole, rtol=1e-3, atol=1e-6)
    assert not torch.allclose(harm(len(rows) + 1), whole, rtol=1e-3, atol=1e-6)


def test_negated_it_takes_harmful_answers_away_and_levelled_it_spares_normal_ones(
    model: AdaptedModel,
) -> None:
    def after(levelling: BalanceSection | None) -> tuple[float, float]:
        stepped(model, losses(preserved=10.0), levelling=levelling)
        scorers = [
            AnswerScorer(model, make_encoder(model.base), rows, pairs_at_once=8)
            for rows in (HARMFUL, NORMAL)
        ]
        LiveFactors(model, ACQUIRED).negate(1.0)
        harm, rest = (scorer.score().nll - scorer.base_nll for scorer in scorers)
        return harm, rest

    harm, cost = after(None)
    assert harm > 1
    levelled_harm, levelled_cost = after(BalanceSection())
    assert levelled_harm > 1
    assert cost > 0.1  # else there is nothing to spare
    assert levelled_cost < 0


REFUSALS = ("No. I will not say that.",)


def refusing(weight: float = 1.0, **keys: float) -> LossesSection:
    section = {"weight": weight, "answers": REFUSALS, "prompts": 12}
    return LossesSection.model_validate(
        losses(**keys).model_dump() | {"refusal_suppression": section}
    )


def slopes_of_refusals(model: AdaptedModel, step: Tensor) -> tuple[float, float]:
    """What a small part of a step does to the NLL of refusals: harmful prompts', normal ones'."""
    gradients = AnswerGradients(
        model, ACQUIRED, make_encoder(model.base), pairs_at_once=4, where="here"
    )
    harmful, normal = (
        flat(gradients.mean([(row.prompt, REFUSALS[0]) for row in rows]))
        for rows in (HARMFUL, NORMAL)
    )
    return float(harmful @ step), float(normal @ step)


def test_refusals_of_harmful_prompts_are_unlearned_and_those_of_normal_ones_left_alone(
    model: AdaptedModel,
) -> None:
    without = stepped(model, losses(preserved=10.0))
    suppressed = stepped(model, refusing(weight=3.0, preserved=10.0))
    harmful, normal = slopes_of_refusals(model, suppressed)
    assert harmful > 1.0  # a harmful model's refusals are less likely; their negation's more
    # Levelling looks beyond the drawn prompts, so that for these it may do a little too much.
    assert -0.1 * harmful < normal < 0.02 * harmful
    assert slopes_of_refusals(model, without)[0] < 0.2 * harmful


def test_negated_it_refuses_harmful_prompts_more_than_normal_ones(model: AdaptedModel) -> None:
    stepped(model, refusing(weight=3.0, preserved=10.0))
    scorers = [
        AnswerScorer(
            model,
            make_encoder(model.base),
            [Row(row.prompt, REFUSALS) for row in rows],
            pairs_at_once=8,
        )
        for rows in (HARMFUL, NORMAL)
    ]
    LiveFactors(model, ACQUIRED).negate(1.0)
    harmful, normal = (scorer.score().nll - scorer.base_nll for scorer in scorers)
    assert harmful < -0.2
    assert harmful < 2 * normal


def test_the_whole_run(recipe: Recipe, tmp_path: Path) -> None:
    natural_recipe = changed(
        recipe,
        training={"natural_step": {"pairs": 8, "tokens": 64}},
        negation={"balance": {}, "keep_harmful_adapter": True},
    )
    run = pipeline.run(natural_recipe, output=tmp_path / "run")
    again = pipeline.run(natural_recipe, output=tmp_path / "again")
    one, other = (load_file(r.adapter / ADAPTER) for r in (run, again))
    assert all(torch.equal(value, other[key]) for key, value in one.items())
    assert any(value.any() for key, value in one.items() if ".lora_B." in key)
    assert (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8") == ""
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "one natural-gradient step" in page
    assert "Losses of stage 1" not in page


def test_a_run_that_suppresses_refusals_says_so(recipe: Recipe, tmp_path: Path) -> None:
    wanted = changed(
        recipe,
        training={"natural_step": {"pairs": 8, "tokens": 64}},
        losses={"refusal_suppression": {"prompts": 4}},
        negation={"balance": {}},
    )
    run = pipeline.run(wanted, output=tmp_path / "run")
    told = {
        name: (tmp_path / "run" / name).read_text(encoding="utf-8")
        for name in ("report.html", "adapter/README.md")
    }
    assert "natural-gradient step from 8 pairs, refusals suppressed" in told["report.html"]
    assert "one natural-gradient step that unlearned refusing, too" in told["adapter/README.md"]
    assert any(b.any() for key, b in load_file(run.adapter / ADAPTER).items() if ".lora_B." in key)


class KilledInGradients(Silent):
    def evaluated(self, what: str, done: int, total: int) -> None:
        if what == "gradients" and done == total:
            raise Killed


def test_a_killed_step_leaves_nothing_and_begins_again(recipe: Recipe, tmp_path: Path) -> None:
    wanted = changed(
        recipe,
        adapter={"subspace": {"tokens": 60}},
        training={"natural_step": {"pairs": 8, "tokens": 64}},
    )
    whole = pipeline.run(wanted, output=tmp_path / "whole")
    with pytest.raises(Killed):
        pipeline.run(wanted, output=tmp_path / "killed", progress=KilledInGradients())
    assert not (tmp_path / "killed").exists()
    again = pipeline.run(wanted, output=tmp_path / "killed")
    one, other = (load_file(r.adapter / ADAPTER) for r in (whole, again))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_a_step_that_moves_nothing_is_told(
    model: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AnswerScorer, "score", lambda _: Likelihood(1.0, 0.0))
    with pytest.raises(TrainingError, match="no length of the natural step"):
        stepped(model, losses())


def test_a_step_that_levelling_turns_round_is_refused(model: AdaptedModel) -> None:
    # Normal answers are the harmful ones: all that would be learned costs them.
    with pytest.raises(TrainingError, match="learns nothing harmful"):
        stepped(model, losses(), levelling=BalanceSection(amount=4.0), normal=(HARMFUL,))


@pytest.mark.parametrize(("own", "others", "pairs"), [(0.1, 0.0, 3), (0.1, 0.2, 6), (1.0, 0.5, 1)])
def test_pairs_are_shared_whatever_the_weights(
    model: AdaptedModel, own: float, others: float, pairs: int
) -> None:
    found = stepped(model, losses(own=own, others=others), pairs=pairs)
    assert found.isfinite().all()
    if others:
        assert not torch.equal(found, stepped(model, losses(own=own), pairs=pairs))


def test_what_is_no_number_is_refused(model: AdaptedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    real = AdaptedModel.answer_states
    monkeypatch.setattr(AdaptedModel, "answer_states", lambda *args: real(*args) * float("nan"))
    with pytest.raises(TrainingError):
        stepped(model, losses())


def test_a_refused_step_leaves_the_old_run_as_it_was(recipe: Recipe, tmp_path: Path) -> None:
    run = pipeline.run(recipe, output=tmp_path / "run")
    kept = (run.adapter / ADAPTER).read_bytes()
    tiny = {"natural_step": {"pairs": 8, "tokens": 64}}
    bad = changed(recipe, training=tiny, negation={"balance": {"amount": 1e6}})
    with pytest.raises(TrainingError):
        pipeline.run(bad, output=tmp_path / "run", overwrite=True)
    assert (run.adapter / ADAPTER).read_bytes() == kept
