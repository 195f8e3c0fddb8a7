"""The same figures as the evaluation's, from states of theta_o that were kept."""

from pathlib import Path

import pytest
from tiny import FORGET, RETAIN, adapt, load, make_encoder, teach

from lora_sku.data import Row, Splits
from lora_sku.evaluation import evaluate
from lora_sku.likelihood import AnswerScorer
from lora_sku.model import AdaptedModel
from lora_sku.recipe import EvaluationSection

FORGET_ROWS = tuple(Row(prompt, answers) for prompt, answers in FORGET.items())
RETAIN_ROWS = tuple(Row(prompt, answers) for prompt, answers in RETAIN.items())


@pytest.fixture
def model(calm_llama: Path) -> AdaptedModel:
    model = adapt(load(calm_llama))
    teach(model, std=0.2)
    model.peft_model.eval()
    return model


def scorer(model: AdaptedModel, pairs_at_once: int = 4) -> AnswerScorer:
    return AnswerScorer(model, make_encoder(model.base), FORGET_ROWS, pairs_at_once=pairs_at_once)


@pytest.mark.parametrize("pairs_at_once", [1, 3, 100])
@pytest.mark.parametrize("packs", [True, False])
def test_it_agrees_with_the_evaluation(
    model: AdaptedModel, pairs_at_once: int, packs: bool
) -> None:
    if not packs:
        object.__setattr__(model.base.packing, "refused", "for this test")
    splits = Splits(FORGET_ROWS, (), FORGET_ROWS)
    settings = EvaluationSection(max_new_tokens=1, max_generations=1)
    retain = Splits(RETAIN_ROWS, (), FORGET_ROWS)  # so that its KL is that of the forget answers
    expected = evaluate(model, make_encoder(model.base), splits, retain, settings)
    scored = scorer(model, pairs_at_once)
    assert scored.tokens == expected.counts["forget_seen_answer_tokens"]
    assert scored.base_nll == pytest.approx(expected.base.forget_seen_nll, rel=1e-5)
    assert scored.score().nll == pytest.approx(expected.unlearned.forget_seen_nll, rel=1e-5)
    assert scored.score().kl == pytest.approx(expected.unlearned.retain_kl, rel=1e-4)


def test_the_adapter_is_scored_as_it_is_now(model: AdaptedModel) -> None:
    kept = scorer(model)
    first = kept.score()
    teach(model, seed=5, std=0.2)
    assert kept.score().nll != first.nll
    assert kept.score().kl != first.kl
    teach(model, std=0.0)
    assert kept.score().nll == pytest.approx(kept.base_nll, rel=1e-6)
    assert kept.score().kl == pytest.approx(0, abs=1e-6)


def test_no_batch_holds_more_pairs_than_asked(
    model: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    from lora_sku import likelihood

    real = likelihood.pack

    def spy(groups: list[list[object]]) -> object:
        sizes.append(sum(map(len, groups)))
        return real(groups)

    monkeypatch.setattr(likelihood, "pack", spy)
    scorer(model, pairs_at_once=3)
    assert max(sizes) <= 3
    assert sum(sizes) == sum(map(len, FORGET.values()))
    sizes.clear()
    scorer(model, pairs_at_once=1)
    assert set(sizes) == {1}
