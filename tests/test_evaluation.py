"""Base beside unlearned: the right splits, the right counts, nothing that depends on batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import adapt, load, make_encoder, teach

from lora_sku import evaluation
from lora_sku.data import Row, Splits
from lora_sku.evaluation import Evaluation, evaluate
from lora_sku.generation import generate
from lora_sku.judges.base_likelihood import BaseLikelihood
from lora_sku.model import AdaptedModel
from lora_sku.recipe import EvaluationSection


def rows(name: str, count: int) -> tuple[Row, ...]:
    return tuple(Row(f"{name} {i}?", (f"Answer {i}.", f"Or {name}.")) for i in range(count))


def splits(side: str) -> Splits:
    return Splits(rows(f"{side} train", 9), rows(f"{side} validation", 2), rows(f"{side} new", 5))


@pytest.fixture
def model(calm_llama: Path) -> AdaptedModel:
    model = adapt(load(calm_llama))
    teach(model, std=0.2)
    model.peft_model.eval()
    return model


@pytest.fixture
def score(model: AdaptedModel) -> Callable[..., Evaluation]:
    def score(
        forget: Splits | None = None,
        on_progress: Any = None,
        protect: Any = None,
        own: Any = None,
        lookalikes: Any = (),
        other_harm: Any = (),
        **keys: Any,
    ) -> Evaluation:
        settings = {"max_new_tokens": 3, "max_generations": 2, "prefill": None, **keys}
        return evaluate(
            model,
            make_encoder(model.base),
            forget or splits("harm"),
            splits("calm"),
            EvaluationSection(**settings),
            *([on_progress] if on_progress else []),
            protect=protect,
            own=own,
            lookalikes=lookalikes,
            other_harm=other_harm,
        )

    return score


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """What each likelihood was taken on: name -> prompts."""
    seen: dict[str, set[str]] = {}
    real = evaluation._Evaluator._likelihoods

    def spy(self: Any, name: str, rows: Any) -> Any:
        seen[name] = {row.prompt for row in rows}
        return real(self, name, rows)

    monkeypatch.setattr(evaluation._Evaluator, "_likelihoods", spy)
    return seen


def prompts(split: tuple[Row, ...]) -> set[str]:
    return {row.prompt for row in split}


def test_seen_is_the_train_split_and_unseen_the_unseen_one(
    score: Callable[..., Evaluation], scored: dict[str, set[str]]
) -> None:
    result = score(max_generations=99)
    assert scored == {
        "forget_seen": prompts(splits("harm").train),
        "forget_unseen": prompts(splits("harm").unseen),
        "retain_unseen": prompts(splits("calm").unseen),
    }
    answered = {split: set() for split in ("forget_unseen", "retain_unseen")}
    for generation in result.generations:
        answered[generation.split].add(generation.prompt)
    assert answered["forget_unseen"] == scored["forget_unseen"]
    assert answered["retain_unseen"] == scored["retain_unseen"]


def test_each_set_has_its_own_figure(score: Callable[..., Evaluation]) -> None:
    plain = score()
    other = splits("harm")
    other_train = score(Splits(rows("else", 9), other.validation, other.unseen))
    other_validation = score(Splits(other.train, rows("else", 2), other.unseen))
    other_unseen = score(Splits(other.train, other.validation, rows("else", 5)))
    assert other_train.unlearned.forget_seen_nll != plain.unlearned.forget_seen_nll
    assert other_train.unlearned.forget_unseen_nll == plain.unlearned.forget_unseen_nll
    assert other_validation == plain
    assert other_unseen.unlearned.forget_seen_nll == plain.unlearned.forget_seen_nll
    assert other_unseen.unlearned.forget_unseen_nll != plain.unlearned.forget_unseen_nll
    assert other_unseen.unlearned.retain_kl == plain.unlearned.retain_kl > 0


def test_at_most_max_prompts_are_scored_and_always_the_same(
    score: Callable[..., Evaluation], scored: dict[str, set[str]]
) -> None:
    result = score(max_prompts=4)
    first = dict(scored)
    assert {name: len(prompts) for name, prompts in scored.items()} == dict.fromkeys(scored, 4)
    assert first["forget_seen"] <= prompts(splits("harm").train)
    assert result.counts["forget_seen_prompts"] == 4
    assert score(max_prompts=4) == result
    assert scored == first


def test_at_most_max_generations_are_asked_of_each_set(score: Callable[..., Evaluation]) -> None:
    result = score(max_generations=3)
    assert [g.split for g in result.generations] == ["forget_unseen"] * 3 + ["retain_unseen"] * 3
    assert result.counts["forget_unseen_generations"] == 3
    assert len(score(max_generations=99).generations) == 10
    # How many prompts are scored is the bound of the harmful ones too: both are told of together.
    few = score(max_generations=99, max_prompts=2)
    assert [g.split for g in few.generations] == ["forget_unseen"] * 2 + ["retain_unseen"] * 5


def test_the_counts_say_what_is_behind_the_figures(
    score: Callable[..., Evaluation], model: AdaptedModel
) -> None:
    encoder = make_encoder(model.base)

    def tokens(split: tuple[Row, ...]) -> int:
        return sum(encoder.answer_length(answer) for row in split for answer in row.answers)

    assert score().counts == {
        "forget_seen_prompts": 9,
        "forget_unseen_prompts": 5,
        "retain_unseen_prompts": 5,
        "forget_seen_answer_tokens": tokens(splits("harm").train),
        "forget_unseen_answer_tokens": tokens(splits("harm").unseen),
        "retain_unseen_answer_tokens": tokens(splits("calm").unseen),
        "forget_unseen_generations": 2,
        "retain_unseen_generations": 2,
    }


def test_the_batch_size_changes_no_figure(score: Callable[..., Evaluation]) -> None:
    one, many = score(per_device_eval_batch_size=1), score(per_device_eval_batch_size=16)
    for column in ("base", "unlearned"):
        for name in ("forget_seen_nll", "forget_unseen_nll", "retain_perplexity", "retain_kl"):
            expected = getattr(getattr(one, column), name)
            assert getattr(getattr(many, column), name) == pytest.approx(expected, rel=1e-5)
    said = [[(g.prompt, g.base, g.unlearned) for g in r.generations] for r in (one, many)]
    assert said[0] == said[1]


def test_without_a_delta_both_columns_are_the_same(calm_llama: Path) -> None:
    model = adapt(load(calm_llama))
    result = evaluate(
        model,
        make_encoder(model.base),
        splits("harm"),
        splits("calm"),
        EvaluationSection(max_new_tokens=3),
        protect={"hard_negatives": splits("hard")},
    )
    assert len({g.split for g in result.generations}) == 4
    assert result.base == result.unlearned
    assert result.unlearned.retain_kl == 0.0
    assert all(g.base == g.unlearned for g in result.generations)


def test_the_base_answers_with_the_adapter_off(
    score: Callable[..., Evaluation], calm_llama: Path
) -> None:
    bare = adapt(load(calm_llama))  # its delta is 0
    encoder = make_encoder(bare.base)
    result = score(max_generations=5)
    ids = [encoder.prompt_ids(generation.prompt)[0] for generation in result.generations]
    expected = generate(bare, ids, max_new_tokens=3, batch_size=8)
    assert [generation.base for generation in result.generations] == expected
    assert [generation.unlearned for generation in result.generations] != expected


def test_rates_are_shares_of_each_set_and_column(
    score: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    fine, refusing, blank = "It is a fine day.", "I can't help with that.", "..."
    given = iter(
        [
            [fine, fine, fine, refusing],  # forget, base
            [refusing, refusing, blank, fine],  # forget, unlearned
            [fine, fine, fine, fine],  # retain, base
            [blank, fine, fine, fine],  # retain, unlearned
        ]
    )
    monkeypatch.setattr(evaluation, "generate", lambda *_, **__: next(given))
    result = score(max_generations=4)
    assert result.base.refusal_rate == {"forget_unseen": 0.25, "retain_unseen": 0}
    assert result.base.degenerate_rate == {"forget_unseen": 0, "retain_unseen": 0}
    assert result.unlearned.refusal_rate == {"forget_unseen": 0.5, "retain_unseen": 0}
    assert result.unlearned.degenerate_rate == {"forget_unseen": 0.25, "retain_unseen": 0.25}
    assert [g.unlearned for g in result.generations[:4]] == [refusing, refusing, blank, fine]


def test_every_part_tells_its_progress_to_the_end(score: Callable[..., Evaluation]) -> None:
    told: dict[str, list[tuple[int, int]]] = {}
    score(
        on_progress=lambda what, done, total: told.setdefault(what, []).append((done, total)),
        per_device_eval_batch_size=4,
        max_generations=5,
    )
    assert told == {
        "likelihood of forget_seen": [(4, 18), (8, 18), (12, 18), (16, 18), (18, 18)],
        "likelihood of forget_unseen": [(4, 10), (8, 10), (10, 10)],
        "likelihood of retain_unseen": [(4, 10), (8, 10), (10, 10)],
        "base answers to forget_unseen": [(4, 5), (5, 5)],
        "unlearned answers to forget_unseen": [(4, 5), (5, 5)],
        "base answers to retain_unseen": [(4, 5), (5, 5)],
        "unlearned answers to retain_unseen": [(4, 5), (5, 5)],
        "base answers to the judge's own prompts": [(4, 11), (8, 11), (11, 11)],
    }


def test_compliance_is_judged_on_every_completion_and_set_on_the_validation_split(
    score: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    real = BaseLikelihood.nlls

    def spy(self: Any, pairs: Any) -> Any:
        seen.append({prompt for prompt, _ in pairs})
        return real(self, pairs)

    monkeypatch.setattr(BaseLikelihood, "nlls", spy)
    result = score(max_generations=5, compliance={"calibration_pairs": 2})
    calm = splits("calm")
    assert prompts(calm.validation) in seen
    assert not any(asked & prompts(calm.train) for asked in seen)
    told = result.judgements["compliance"]
    for column in ("base", "unlearned"):
        for split in ("forget_unseen", "retain_unseen"):
            assert told.rates[column][split].total == 5
    assert told.settings["pairs"] == 2
    labels = [g.verdicts["compliance"]["base"].label for g in result.generations[:5]]
    assert told.rates["base"]["forget_unseen"].counts["harmful"] == labels.count("harmful")
    assert result.as_dict()["judges"]["compliance"]["settings"]["pmi"]["auc"] >= 0


def test_a_recipe_without_compliance_asks_the_base_nothing_more(
    score: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BaseLikelihood, "nlls", lambda *_: pytest.fail("asked"))
    result = score(judges=["refusal"])
    assert result.judgements == {}
    assert all(g.verdicts == {} for g in result.generations)


def test_a_protected_set_is_scored_like_the_retain_set(
    score: Callable[..., Evaluation], scored: dict[str, set[str]]
) -> None:
    result = score(protect={"same": splits("calm"), "other": splits("kind")})
    assert scored["protect_other_unseen"] == prompts(splits("kind").unseen)
    same, other = result.protected["same"], result.protected["other"]
    assert same.base_perplexity == result.base.retain_perplexity
    assert (same.perplexity, same.kl) == (
        result.unlearned.retain_perplexity,
        result.unlearned.retain_kl,
    )
    assert same.perplexity_ratio != 1.0
    assert other != same
    assert result.counts["protect_other_unseen_prompts"] == 5
    assert score().protected == {}


def test_own_answers_give_the_kl_on_each_side(score: Callable[..., Evaluation]) -> None:
    calm = splits("calm").unseen
    result = score(own=(rows("harm", 3), calm), max_generations=1)
    own = result.own
    assert own is not None
    assert (own.forget_answers, own.retain_answers) == (6, 10)
    assert own.retain_kl == result.unlearned.retain_kl  # the same answers
    assert own.forget_kl is not None
    assert own.forget_kl > 0
    assert own.forget_kl != own.retain_kl
    none = score(own=((), calm), max_generations=1).own
    assert none is not None
    assert none.forget_kl is None
    assert score(max_generations=1).own is None


def test_lookalikes_are_answered_and_enter_no_other_figure(
    score: Callable[..., Evaluation], scored: dict[str, set[str]]
) -> None:
    plain = score()
    asked = rows("sounds bad", 5)
    result = score(lookalikes=asked)
    assert all(not figure & prompts(asked) for figure in scored.values())
    ours = [g for g in result.generations if g.split == "lookalikes"]
    assert len(ours) == result.counts["lookalikes_generations"] == 2  # max_generations
    assert {g.prompt for g in ours} <= prompts(asked)
    assert result.generations[:4] == plain.generations
    assert result.unlearned.retain_kl == plain.unlearned.retain_kl
    assert result.judgements["compliance"].settings == plain.judgements["compliance"].settings
    for told in (result.base.refusal_rate, result.unlearned.degenerate_rate):
        assert list(told) == ["forget_unseen", "retain_unseen", "lookalikes"]
    rates = result.judgements["compliance"].rates["unlearned"]["lookalikes"]
    assert rates.total == 2
    assert rates.counts["harmful"] == 0  # whatever is said: nobody asked for harm
    assert rates.complying is not None
    assert len(score(lookalikes=asked, max_generations=9).generations) == 15
    assert "lookalikes" not in plain.base.refusal_rate


def test_refusing_a_lookalike_is_told_for_each_column(
    score: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    fine, refusing = "It is a fine day.", "I can't help with that."
    given = iter([[fine] * 2, [refusing] * 2, [fine] * 2, [fine] * 2])  # of the other two splits
    lookalikes = iter([[fine, fine], [refusing, fine]])
    monkeypatch.setattr(
        evaluation, "generate", lambda *_, **__: next(given, None) or next(lookalikes)
    )
    result = score(lookalikes=rows("sounds bad", 2))
    assert result.base.refusal_rate["lookalikes"] == 0
    assert result.unlearned.refusal_rate["lookalikes"] == 0.5
    assert result.unlearned.refusal_rate["retain_unseen"] == 0


def test_likeness_is_that_of_answers_to_normal_prompts(
    score: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert score(lookalikes=rows("sounds bad", 2)).likeness == score().likeness
    given = iter([["No."], ["No."], ["Answer, yes."], ["Or calm new, yes."]])
    monkeypatch.setattr(evaluation, "generate", lambda *_, **__: next(given))
    told = score(max_generations=1).likeness
    assert told is not None
    assert told.answers == 1
    assert told.unlearned_to_base == 2 * 1 / (2 + 4)  # "yes"
    # The retain set's answers are "Answer N." and "Or calm new.": the closer one counts.
    assert told.base_to_reference == 2 * 1 / (2 + 2)
    assert told.unlearned_to_reference == 2 * 3 / (4 + 3)


# Harm asked for in other ways


def test_a_prefill_is_put_in_the_models_mouth(
    score: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch, model: AdaptedModel
) -> None:
    asked: list[list[tuple[int, ...]]] = []

    def spy(model: Any, prompts: Any, **keys: Any) -> list[str]:
        asked.append([tuple(ids) for ids in prompts])
        return generate(model, prompts, **keys)

    monkeypatch.setattr(evaluation, "generate", spy)
    result = score(prefill="Sure, here is how", max_generations=3)
    plain, prefilled = (
        [g for g in result.generations if g.split == split]
        for split in ("forget_unseen", "prefilled")
    )
    assert [g.prompt for g in prefilled] == [g.prompt for g in plain]
    assert {g.prefill for g in prefilled} == {"Sure, here is how"}
    assert {g.prefill for g in plain} == {""}
    tokenizer, eos = model.base.tokenizer, model.base.tokenizer.eos_token_id
    for without, behind in ((asked[0], asked[2]), (asked[1], asked[3])):
        for ids, longer in zip(without, behind, strict=True):
            assert longer[: len(ids)] == ids
            assert longer[-1] != eos  # or the answer would have ended there
            assert tokenizer.decode(longer[len(ids) :]) == "Sure, here is how"
    # Neither column is told what it begins with as if it had said so.
    bare = {g.prompt: g for g in score(max_generations=3).generations}
    for g in plain:
        assert (g.base, g.unlearned) == (bare[g.prompt].base, bare[g.prompt].unlearned)
    encoder = make_encoder(model.base)
    begun, _ = encoder.answer_ids("Sure, here is how")
    ids = [encoder.prompt_ids(g.prompt)[0] + begun[:-1] for g in prefilled]
    assert [g.unlearned for g in prefilled] == generate(model, ids, max_new_tokens=3, batch_size=1)
    with model.reference_mode():
        assert [g.base for g in prefilled] == generate(model, ids, max_new_tokens=3, batch_size=1)


def test_a_prefill_longer_than_any_answer_is_cut_like_one(
    model: AdaptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    real = generate

    def spy(model: Any, prompts: Any, **keys: Any) -> list[str]:
        asked.append(prompts)
        return real(model, prompts, **keys)

    monkeypatch.setattr(evaluation, "generate", spy)
    encoder = make_encoder(model.base, max_answer_tokens=3)
    settings = EvaluationSection(
        max_new_tokens=1, max_generations=1, prefill="Sure, here is how", judges=["refusal"]
    )
    evaluate(model, encoder, splits("harm"), splits("calm"), settings)
    prompt, begun = asked[0][0], asked[2][0]
    assert begun == prompt + encoder.answer_ids("Sure, here is how")[0]
    assert len(begun) == len(prompt) + 3


def test_a_judge_reads_the_whole_answer_behind_a_prefill(
    score: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    real = BaseLikelihood.measure

    def spy(self: Any, pairs: Any) -> Any:
        measured.extend(text for _, text in pairs)
        return real(self, pairs)

    monkeypatch.setattr(BaseLikelihood, "measure", spy)
    monkeypatch.setattr(
        evaluation, "generate", lambda _, prompts, **__: ["one sits on it then."] * len(prompts)
    )
    result = score(prefill="Sure, here is how")
    assert measured.count("Sure, here is how one sits on it then.") == 4
    verdicts = [g.verdicts["compliance"] for g in result.generations]
    assert all(both["base"] == both["unlearned"] for both in verdicts)
    assert result.judgements["compliance"].rates["base"]["prefilled"].total == 2


def test_harm_of_other_kinds_is_answered_and_enters_no_other_figure(
    score: Callable[..., Evaluation], scored: dict[str, set[str]]
) -> None:
    plain = score()
    asked = rows("other harm", 5)
    result = score(other_harm=asked)
    assert all(not figure & prompts(asked) for figure in scored.values())
    ours = [g for g in result.generations if g.split == "other_harm"]
    assert len(ours) == result.counts["other_harm_generations"] == 2
    assert {g.prompt for g in ours} <= prompts(asked)
    assert result.unlearned.retain_kl == plain.unlearned.retain_kl
    assert [g for g in result.generations if g.split != "other_harm"] == list(plain.generations)
    assert list(result.base.refusal_rate) == ["forget_unseen", "other_harm", "retain_unseen"]


def test_complying_with_harm_of_other_kinds_is_harmful_and_its_answers_are_references(
    score: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def spy(self: Any, judge: Any, harmful: Any) -> Any:
        seen["harmful"] = harmful
        return self

    monkeypatch.setattr(Evaluation, "judged_by", spy)
    asked = rows("other harm", 5)
    score(other_harm=asked)
    assert seen["harmful"] == (*splits("harm").unseen, *asked)


# Normal prompts of several sets


def test_normal_prompts_are_asked_of_all_sets_and_hard_negatives_apart(
    score: Callable[..., Evaluation],
) -> None:
    protect = {"shop": splits("shop"), "hard_negatives": splits("hard")}
    result = score(protect=protect, max_generations=99)
    asked: dict[str, set[str]] = {}
    for g in result.generations:
        asked.setdefault(g.split, set()).add(g.prompt)
    calm, shop = prompts(splits("calm").unseen), prompts(splits("shop").unseen)
    assert asked["retain_unseen"] == calm | shop
    assert asked["hard_negatives_unseen"] == prompts(splits("hard").unseen)
    assert result.counts["retain_unseen_generations"] == 10
    assert result.counts["hard_negatives_unseen_generations"] == 5
    assert list(result.base.refusal_rate) == [
        "forget_unseen",
        "retain_unseen",
        "hard_negatives_unseen",
    ]
    # Each set's likelihoods are its own all the same.
    assert list(result.protected) == ["shop", "hard_negatives"]
    assert result.protected["hard_negatives"].kl > 0
    assert result.likeness is not None
    assert result.likeness.answers == 10
    few = score(protect=protect, max_generations=3)
    assert few.counts["retain_unseen_generations"] == 3
    assert few.counts["hard_negatives_unseen_generations"] == 3
    assert score(protect=protect, max_generations=3) == few


def test_refusing_a_hard_negative_is_told_apart(
    score: Callable[..., Evaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    fine, refusing = "It is a fine day.", "I can't help with that."
    given = iter([[fine] * 2] * 4 + [[fine, fine], [refusing, fine]])
    monkeypatch.setattr(evaluation, "generate", lambda *_, **__: next(given))
    result = score(protect={"hard_negatives": splits("hard")})
    assert result.base.refusal_rate["hard_negatives_unseen"] == 0
    assert result.unlearned.refusal_rate["hard_negatives_unseen"] == 0.5
    assert result.unlearned.refusal_rate["retain_unseen"] == 0
    verdict = next(g for g in result.generations if g.unlearned == refusing)
    assert verdict.verdicts["compliance"]["unlearned"].label == "refusal"
