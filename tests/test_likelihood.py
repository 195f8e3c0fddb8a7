"""The same figures as row by row, and the same refusals as token by token, from kept states."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny import FORGET, RETAIN, adapt, load, make_encoder, teach
from torch import Tensor

from lora_sku import likelihood
from lora_sku.data import Encoder, Row, Splits
from lora_sku.evaluation import evaluate
from lora_sku.likelihood import FIRST_TOKENS, AnswerScorer, Likelihood
from lora_sku.model import AdaptedModel
from lora_sku.recipe import EvaluationSection

FORGET_ROWS = tuple(Row(prompt, answers) for prompt, answers in FORGET.items())
RETAIN_ROWS = tuple(Row(prompt, answers) for prompt, answers in RETAIN.items())
EOS = 1


@pytest.fixture
def model(calm_llama: Path) -> AdaptedModel:
    model = adapt(load(calm_llama))
    teach(model, std=0.2)
    model.peft_model.eval()
    return model


def scorer(
    model: AdaptedModel, pairs_at_once: int = 4, encoder: Encoder | None = None, **keys: object
) -> AnswerScorer:
    encoder = encoder or make_encoder(model.base)
    return AnswerScorer(model, encoder, FORGET_ROWS, pairs_at_once=pairs_at_once, **keys)


def without_packing(model: AdaptedModel) -> None:
    object.__setattr__(model.base.packing, "refused", "for this test")


# Row by row, token by token


@torch.no_grad()
def log_probabilities(model: AdaptedModel, ids: Sequence[int]) -> Tensor:
    """(T, V) of one row, from transformers' own logits."""
    return model.base.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)


def plainly(model: AdaptedModel, rows: Sequence[Row]) -> tuple[float, float, float]:
    """(NLL, KL, KL at the first tokens) of the model as it is, pair by pair."""
    nlls, kls, first = [], [], []
    encoder = make_encoder(model.base)
    for row in rows:
        for answer in row.answers:
            encoded = encoder.encode(row.prompt, answer)
            predicting = slice(encoded.prompt_length - 1, -1)
            p = log_probabilities(model, encoded.input_ids)[predicting]
            with model.reference_mode():
                q = log_probabilities(model, encoded.input_ids)[predicting]
            answered = torch.tensor(encoded.input_ids[encoded.prompt_length :])
            nlls.append(-p.gather(1, answered[:, None])[:, 0])
            kls.append((q.exp() * (q - p)).sum(-1))
            first.append(kls[-1][:3])
    return tuple(float(torch.cat(values).double().mean()) for values in (nlls, kls, first))


def greedily(model: AdaptedModel, prompt: str, most: int = FIRST_TOKENS) -> tuple[int, ...]:
    """What the model goes on with, one token at a time."""
    ids = list(make_encoder(model.base).prompt_ids(prompt)[0])
    for _ in range(most):
        ids.append(int(log_probabilities(model, ids)[-1].argmax()))
    return tuple(ids[-most:])


class Scripted(Encoder):
    """Knows the tokens of some texts by heart."""

    def __init__(self, model: AdaptedModel, script: dict[str, tuple[int, ...]]) -> None:
        limits = {"max_prompt_tokens": 64, "max_answer_tokens": 32}
        super().__init__(model.base.tokenizer, template=None, **limits)
        self._script = script

    def answer_ids(self, answer: str) -> tuple[tuple[int, ...], bool]:
        known = self._script.get(answer)
        return super().answer_ids(answer) if known is None else (known, False)


def test_the_fewest_tokens_that_tell_a_refusal_are_three() -> None:
    assert FIRST_TOKENS == 3  # as the recipe's descriptions say


@pytest.mark.parametrize("pairs_at_once", [1, 2, 3, 100])
@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
def test_figures_are_those_of_row_by_row(
    model: AdaptedModel, pairs_at_once: int, packs: bool
) -> None:
    if not packs:
        without_packing(model)
    safe = ("I won't say.", "That is not kind.", "That is not so.", "No.")
    for keys in ({}, {"safe": safe}):  # safe responses enter no mean
        kept = scorer(model, pairs_at_once, **keys)
        told = kept.score()
        assert (told.nll, told.kl, told.first_kl) == pytest.approx(
            plainly(model, FORGET_ROWS), rel=1e-4
        )
        assert kept.rows == len(FORGET_ROWS) == len(told.refused)
        with model.reference_mode():
            base_nll, _, _ = plainly(model, FORGET_ROWS)
        assert kept.base.nll == pytest.approx(base_nll, rel=1e-5)
        assert (kept.base.kl, kept.base.first_kl) == pytest.approx((0, 0), abs=1e-6)
    assert told.first_kl != pytest.approx(told.kl, rel=0.02)


@pytest.mark.parametrize("pairs_at_once", [1, 2, 3, 100])
@pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
def test_refused_is_what_greedy_decoding_begins_with_a_safe_response(
    model: AdaptedModel, pairs_at_once: int, packs: bool
) -> None:
    if not packs:
        without_packing(model)
    said = [greedily(model, row.prompt, 5) for row in FORGET_ROWS]
    with model.reference_mode():
        said_before = [greedily(model, row.prompt, 5) for row in FORGET_ROWS]
    other = {ids: (ids + 1) % 290 + 5 for ids in range(300)}
    script = {
        "as row 2, and on": (*said[2], EOS),
        "as row 5, and then otherwise": (*said[5][:3], other[said[5][3]], EOS),
        "almost as row 7": (*said[7][:2], other[said[7][2]], EOS),
        "as row 9 in its second and third": (other[said[9][0]], *said[9][1:3], EOS),
        "shorter than row 10": (said[10][0], EOS),
        "as theta_o on row 0": (*said_before[0][:3], EOS),
    }
    beginnings = [ids[:3] for ids in script.values()]
    expected, before = (
        tuple(any(ids[: len(begun)] == begun for begun in beginnings) for ids in of)
        for of in (said, said_before)
    )
    assert (expected[2], expected[5], before[0]) == (True, True, True)
    assert not all(expected)
    assert expected != before
    kept = scorer(model, pairs_at_once, Scripted(model, script), safe=tuple(script))
    assert kept.score().refused == expected
    assert kept.base.refused == before


def test_a_response_that_ends_early_is_said_only_where_the_end_is_said_too(
    model: AdaptedModel,
) -> None:
    first = greedily(model, FORGET_ROWS[0].prompt, 1)
    with torch.no_grad():  # the base's projection to EOS never wins
        model.base.head.weight_VD[EOS] = 0
    assert (
        not scorer(model, 4, Scripted(model, {"short": (*first, EOS)}), safe=("short",))
        .score()
        .refused[0]
    )
    assert scorer(model, 4, Scripted(model, {"bare": first}), safe=("bare",)).score().refused[0]


def test_without_safe_responses_nothing_is_refused(model: AdaptedModel) -> None:
    kept = scorer(model)
    assert kept.base.refused == kept.score().refused == (False,) * len(FORGET_ROWS)


def test_a_response_is_asked_once_for_all_that_begin_like_it(
    model: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = pairs_seen(monkeypatch)
    script = {"a": (10, 11, 12, EOS), "b": (10, 11, 12, 13, EOS), "c": (10, 11, EOS)}
    scorer(model, 100, Scripted(model, script), safe=tuple(script))
    assert sum(sizes) == sum(map(len, FORGET.values())) + 2 * len(FORGET)


def test_it_agrees_with_the_evaluation(model: AdaptedModel) -> None:
    splits = Splits(FORGET_ROWS, (), FORGET_ROWS)
    settings = EvaluationSection(max_new_tokens=1, max_generations=1)
    retain = Splits(RETAIN_ROWS, (), FORGET_ROWS)  # so that its KL is that of the forget answers
    expected = evaluate(model, make_encoder(model.base), splits, retain, settings)
    kept = scorer(model)
    assert kept.tokens == expected.counts["forget_seen_answer_tokens"]
    assert kept.base.nll == pytest.approx(expected.base.forget_seen_nll, rel=1e-5)
    assert kept.score().nll == pytest.approx(expected.unlearned.forget_seen_nll, rel=1e-5)
    assert kept.score().kl == pytest.approx(expected.unlearned.retain_kl, rel=1e-4)


# Again and again


def test_the_adapter_is_scored_as_it_is_now(model: AdaptedModel) -> None:
    kept = scorer(model)
    first = kept.score()
    teach(model, seed=5, std=0.2)
    second = kept.score()
    for name in ("nll", "kl", "first_kl"):
        assert getattr(second, name) != getattr(first, name)
    teach(model, std=0.0)
    nothing = kept.score()
    assert nothing.nll == pytest.approx(kept.base.nll, rel=1e-6)
    assert (nothing.kl, nothing.first_kl) == pytest.approx((0, 0), abs=1e-6)
    assert nothing.refused == kept.base.refused


def test_scoring_twice_is_the_same(model: AdaptedModel) -> None:
    kept = scorer(model, safe=("No.",))
    first = kept.score()
    assert isinstance(first, Likelihood)
    assert kept.score() == first


# What goes through at once


def pairs_seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pairs each packed batch holds."""
    sizes: list[int] = []
    real = likelihood.pack

    def spy(groups: list[list[object]]) -> object:
        sizes.append(sum(map(len, groups)))
        return real(groups)

    monkeypatch.setattr(likelihood, "pack", spy)
    return sizes


@pytest.mark.parametrize("pairs_at_once", [1, 2, 3, 5])
def test_no_batch_holds_more_pairs_than_asked(
    model: AdaptedModel, monkeypatch: pytest.MonkeyPatch, pairs_at_once: int
) -> None:
    sizes = pairs_seen(monkeypatch)
    # Four pairs a prompt: two answers and two responses, more than some of these sizes.
    scorer(model, pairs_at_once, safe=("No.", "I won't say."))
    assert max(sizes) <= pairs_at_once
    assert sum(sizes) == sum(map(len, FORGET.values())) + 2 * len(FORGET)
