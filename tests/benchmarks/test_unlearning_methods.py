"""Every method sees as many answers in a step, and stands for what it is called."""

import pytest

from benchmarks.unlearning_methods import (
    DISCRIMINANTS,
    EXTRAS,
    OURS,
    PLAIN,
    RIVALS,
    UnlearningMethod,
    unlearning_methods,
)
from lora_sku.data import Row, StepSampler
from lora_sku.recipe import LossesSection

TUNED = LossesSection.model_validate(
    {
        "guided_distortion": {"weight": 1.0},
        "random_disassociation": {"weight": 0.25, "responses": 2},
        "preservation_divergence": {"weight": 80.0, "prompts": 2},
    }
)
METHODS = unlearning_methods(TUNED, prompts=2, responses=5)
ANSWERS = 2 * (1 + 5 + 2)


def answers_of_a_step(method: UnlearningMethod) -> int:
    rows = [Row(f"{number}?", (f"{number}.",)) for number in range(40)]
    losses = method.losses
    draw = StepSampler(
        rows,
        rows,
        prompts_per_step=method.prompts,
        retain_prompts_per_step=method.prompts * losses.preservation_divergence.prompts,
        responses=losses.random_disassociation.responses
        if losses.random_disassociation.weight
        else 0,
        seed=0,
    ).draw(0)
    if method.objective is not None:
        kept = len(draw.retain) if method.objective.preserve else 0
        return kept + sum(len(term.pairs(draw)) for term in method.objective.answers)
    kept = len(draw.retain) if losses.preservation_divergence.weight else 0
    return kept + len(draw.forget) + sum(map(len, draw.random))


@pytest.mark.parametrize("name", [name for name, m in METHODS.items() if m.every_seed])
def test_a_step_has_as_many_answers_for_every_method(name: str) -> None:
    # Three kinds of answers cannot share sixteen evenly.
    assert answers_of_a_step(METHODS[name]) == pytest.approx(ANSWERS, abs=1)


def test_rivals_ours_and_plain_negation_are_methods() -> None:
    assert {*RIVALS, *EXTRAS, OURS, PLAIN} <= METHODS.keys()
    assert not any(METHODS[name].every_seed for name in EXTRAS)
    ours = METHODS[OURS].losses
    assert ours.refusal_suppression is not None
    assert ours.model_copy(update={"refusal_suppression": None}) == METHODS[PLAIN].losses
    assert METHODS["sku-answers-only"].losses == METHODS[PLAIN].losses
    assert METHODS[OURS].subspace == DISCRIMINANTS
    assert METHODS[OURS].rank == 4
    assert METHODS["sku-projected"].projected
    assert not METHODS[PLAIN].subspace
    assert not METHODS[PLAIN].projected


def test_what_learns_harm_is_taken_away_and_what_unlearns_is_added() -> None:
    assert {name for name, method in METHODS.items() if method.negated} == {
        name for name in METHODS if name.startswith(("sku", "task-vector"))
    }


def test_published_and_tuned_differ_in_weights_and_direction() -> None:
    published = METHODS["sku-published"].losses
    assert published.guided_distortion.weight == 2.5
    assert published.preservation_divergence.direction == "diverge"
    assert METHODS[PLAIN].losses.preservation_divergence.weight == 80.0
    assert METHODS[PLAIN].losses.random_disassociation.responses == 5
    assert METHODS["npo-kl"].objective is not None
    assert METHODS["npo-kl"].objective.preserve == 80.0


def test_an_ablation_changes_one_thing() -> None:
    whole = METHODS[PLAIN].losses.model_dump()
    for name in ("sku-no-gd", "sku-no-rd", "sku-no-pd", "sku-k1", "sku-k10", "sku-diverge"):
        method = METHODS[name]
        assert not method.every_seed
        changed = [
            (term, key)
            for term, keys in method.losses.model_dump(exclude_none=True).items()
            for key, value in keys.items()
            if value != whole[term][key]
        ]
        assert len(changed) == 1, name


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("sku-selective", {"subspace", "rank"}),
        ("sku-answers-only", {"losses"}),
        ("sku-unlevelled", {"balanced"}),
        ("sku-random-a", {"subspace", "rank"}),
        ("sku-by-adam", {"natural", "losses"}),
    ],
)
def test_a_part_of_ours_is_left_out_at_a_time(name: str, changed: set[str]) -> None:
    part, ours = vars(METHODS[name]), vars(METHODS[OURS])
    differing = {key for key in ours if part[key] != ours[key]}
    assert differing == changed | {"meaning", "every_seed"}
    assert not METHODS[name].every_seed
