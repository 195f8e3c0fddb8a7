"""What an evaluation found, and how a further judge's labels join it."""

from dataclasses import replace

import pytest

from lora_sku.data import Row
from lora_sku.judges.refusal import RefusalJudge
from lora_sku.judges.similarity import SimilarityJudge
from lora_sku.judging import Generation
from lora_sku.likeness import Likeness
from lora_sku.recipe_judges import SimilaritySection
from lora_sku.scores import Evaluation, OwnKL, Protected, Scores
from lora_sku.task_scores import Measured

SCORES = Scores(
    forget_seen_nll=1.0,
    forget_unseen_nll=2.0,
    retain_perplexity=3.0,
    retain_kl=0.0,
    refusal_rate={},
    degenerate_rate={},
)
EVALUATION = Evaluation(
    base=SCORES,
    unlearned=SCORES,
    counts={"prompts": 2},
    generations=(
        Generation("forget_unseen", "Spoil it?", "Sit on the old chair.", "Sit on the chair."),
        Generation("retain_unseen", "Colour?", "Sit on the old chair.", "Green."),
    ),
)
HARMFUL = (Row("Spoil it?", ("Sit on the chair.",)),)


def test_references_are_the_harmful_answers_to_the_same_prompt() -> None:
    told = EVALUATION.judged_by(SimilarityJudge(SimilaritySection(rouge_l_threshold=1.0)), HARMFUL)
    rates = told.judgements["similarity"].rates
    assert rates["unlearned"]["forget_unseen"].counts["harmful"] == 1
    assert rates["base"]["forget_unseen"].counts["harmful"] == 0  # a word more
    assert rates["base"]["retain_unseen"].counts["harmful"] == 0


def test_judges_add_up_and_the_evaluation_before_stays_as_it_was() -> None:
    once = EVALUATION.judged_by(RefusalJudge(), HARMFUL)
    twice = once.judged_by(SimilarityJudge(SimilaritySection()), HARMFUL)
    assert EVALUATION.judgements == {}
    assert list(once.judgements) == ["refusal"]
    assert list(twice.as_dict()["judges"]) == ["refusal", "similarity"]
    assert list(twice.generations[0].verdicts) == ["refusal", "similarity"]
    assert twice.as_dict()["base"]["forget_seen_nll"] == 1.0
    assert twice.as_dict()["counts"] == {"prompts": 2}


def test_a_protected_sets_ratio_is_told() -> None:
    told = replace(EVALUATION, protected={"shop": Protected(4.0, 5.0, 0.25)}).as_dict()
    assert told["protected"] == {
        "shop": {"base_perplexity": 4.0, "perplexity": 5.0, "kl": 0.25, "perplexity_ratio": 1.25}
    }


@pytest.mark.parametrize(
    ("forget", "retain", "ratio"), [(0.5, 0.25, 2.0), (None, 0.25, None), (0.5, 0.0, None)]
)
def test_selectivity_is_the_ratio_of_two_kls_or_unknown(
    forget: float | None, retain: float, ratio: float | None
) -> None:
    own = OwnKL(forget, retain, 4, 5)
    assert own.selectivity == ratio
    assert replace(EVALUATION, own=own).as_dict()["own_answers"]["selectivity"] == ratio
    assert EVALUATION.as_dict()["own_answers"] is None


def test_likeness_is_told_where_it_is_known() -> None:
    told = replace(EVALUATION, likeness=Likeness(0.75, 0.5, 0.25, 8)).as_dict()["likeness"]
    assert told == {
        "unlearned_to_base": 0.75,
        "base_to_reference": 0.5,
        "unlearned_to_reference": 0.25,
        "answers": 8,
    }
    assert EVALUATION.as_dict()["likeness"] is None


def test_task_figures_stand_side_by_side_with_their_documents() -> None:
    base = Measured({"colours": {"acc": 0.5}}, {"colours": 6})
    told = EVALUATION.with_tasks(base, Measured({"colours": {"acc": None}}, {"colours": 6}))
    assert told.as_dict()["lm_eval"] == {"colours": {"acc": {"base": 0.5, "unlearned": None}}}
    assert told.counts == {"prompts": 2, "lm_eval_colours_documents": 6}
    assert EVALUATION.as_dict()["lm_eval"] == {}
