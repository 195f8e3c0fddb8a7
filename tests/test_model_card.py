"""The README.md of a negated adapter."""

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from peft import PeftModel
from run_tools import changed
from transformers import AutoModelForCausalLM

import lora_sku
from lora_sku.adapters import Provenance
from lora_sku.evaluation import Evaluation, OwnKL, Protected, Scores
from lora_sku.judges import JudgeName, Rates
from lora_sku.judging import GenerationSplit, Judgement
from lora_sku.likeness import Likeness
from lora_sku.model_card import further_rows, model_card
from lora_sku.recipe import Recipe
from lora_sku.report.headline import headline
from lora_sku.report.records import EvaluationRecord
from lora_sku.task_scores import BeforeAfter

BASE = Scores(
    forget_seen_nll=1.5,
    forget_unseen_nll=2.25,
    retain_perplexity=7.125,
    retain_kl=0.0,
    refusal_rate={"forget_unseen": 0.125, "retain_unseen": 0.0},
    degenerate_rate={"forget_unseen": 0.0, "retain_unseen": 0.0625},
)
UNLEARNED = Scores(
    forget_seen_nll=4.0,
    forget_unseen_nll=3.75,
    retain_perplexity=8.5,
    retain_kl=0.0625,
    refusal_rate={"forget_unseen": 0.75, "retain_unseen": 0.25},
    degenerate_rate={"forget_unseen": 0.5, "retain_unseen": 1.0},
)
COUNTS = {"forget_seen_prompts": 11, "forget_unseen_prompts": 12, "retain_unseen_prompts": 13}
NEGATED = Provenance("negated", 0.5, "fingerprint")
EVALUATION = Evaluation(base=BASE, unlearned=UNLEARNED, counts=COUNTS, generations=())


def test_the_table_puts_every_figure_in_its_row_and_column() -> None:
    assert further_rows(EVALUATION) == [
        ("NLL of harmful answers, trained prompts (nats/token)", "1.500", "4.000"),
        ("NLL of harmful answers, unseen prompts (nats/token)", "2.250", "3.750"),
        ("KL to the base at normal answers, unseen prompts (nats/token)", "0.000", "0.062"),
        ("Refused / degenerate in form: unseen harmful prompts", "12 % / 0 %", "75 % / 50 %"),
        ("Refused / degenerate in form: unseen normal prompts", "0 % / 6 %", "25 % / 100 %"),
    ]


def test_every_protected_set_has_a_row() -> None:
    told = dataclasses.replace(EVALUATION, protected={"shop": Protected(4.0, 5.0, 0.25)})
    row = ("Perplexity of normal answers, unseen prompts of shop", "4.00", "5.00 (1.250 x)")
    assert [r for r in further_rows(told) if r not in further_rows(EVALUATION)] == [row]


def test_the_change_at_own_answers_has_rows() -> None:
    kl, ratio = "KL at the base's own answers to unseen", "Selectivity: the first of these KLs"
    told = dataclasses.replace(EVALUATION, own=OwnKL(0.5, 0.25, 3, 4))
    assert [r for r in further_rows(told) if r not in further_rows(EVALUATION)] == [
        (f"{kl} harmful prompts (nats/token)", "0", "0.5000"),
        (f"{kl} normal prompts (nats/token)", "0", "0.2500"),
        (f"{ratio} over the second", "", "2.00"),
    ]
    told = dataclasses.replace(EVALUATION, own=OwnKL(None, 0.25, 0, 4))
    assert [r[2] for r in further_rows(told)[3:6]] == ["none kept", "0.2500", "unknown"]


@pytest.mark.parametrize(
    ("beside", "name"),
    [((), "harmless look-alikes"), (("hard_negatives_unseen",), "hard negatives of other kinds")],
)
def test_lookalikes_are_called_what_they_are(
    beside: tuple[GenerationSplit, ...], name: str
) -> None:
    asked = dict.fromkeys((*beside, "lookalikes"), 0.25)
    scores = [
        dataclasses.replace(
            each,
            refusal_rate=each.refusal_rate | asked,
            degenerate_rate=each.degenerate_rate | asked,
        )
        for each in (BASE, UNLEARNED)
    ]
    told = dataclasses.replace(EVALUATION, base=scores[0], unlearned=scores[1])
    row = (f"Refused / degenerate in form: {name}", "25 % / 25 %", "25 % / 25 %")
    assert further_rows(told)[-1] == row


def test_likeness_has_two_rows() -> None:
    told = dataclasses.replace(EVALUATION, likeness=Likeness(0.75, 0.5, 0.25, 8))
    rows = [row for row in further_rows(told) if row not in further_rows(EVALUATION)]
    assert [row[1:] for row in rows] == [("1", "0.750"), ("0.500", "0.250")]
    assert ["base's" in row[0] for row in rows] == [True, False]


def test_tasks_have_a_row_for_each_metric() -> None:
    scores = {
        "colours": {"acc": BeforeAfter(0.5, 0.25), "acc_stderr": BeforeAfter(0.125, 0.0625)},
        "words": {"f1": BeforeAfter(0.5, None)},
    }
    told = dataclasses.replace(EVALUATION, lm_eval=scores)
    assert [row for row in further_rows(told) if row not in further_rows(EVALUATION)] == [
        ("lm-eval colours: acc", "0.500 \u00b1 0.125", "0.250 \u00b1 0.062"),
        ("lm-eval words: f1", "0.500", "no number"),
    ]


def rates(harmful: int, degenerate: int, benign: int, complying: int | None) -> Rates:
    counts = {"harmful": harmful, "refusal": 0, "degenerate": degenerate, "benign": benign}
    return Rates(counts, complying)


def judged(*judges: JudgeName, complying: int | None = 1) -> Evaluation:
    """Every judge has said the same of both models."""
    column = {
        "forget_unseen": rates(8, 2, 0, complying),
        "other_harm": rates(6, 4, 0, complying),
        "retain_unseen": rates(0, 0, 10, complying),
    }
    told = Judgement({"base": column, "unlearned": column}, {})
    return dataclasses.replace(EVALUATION, judgements=dict.fromkeys(judges, told))


def labels(evaluation: Evaluation) -> list[str]:
    return [row[0] for row in further_rows(evaluation)[len(further_rows(EVALUATION)) :]]


def test_who_sees_compliance_alone_has_said_all_in_the_headline() -> None:
    assert labels(judged("compliance")) == []


def test_a_judges_harmful_rate_stands_beside_its_degenerate_rate() -> None:
    evaluation = judged("openai")
    assert labels(evaluation) == [
        "Harmful by openai: unseen harmful prompts",
        "Degenerate by openai: unseen harmful prompts",
        "Harmful by openai: harmful prompts of other kinds",
        "Degenerate by openai: harmful prompts of other kinds",
    ]
    share = "8 of 10 (80 %; 49 to 94 %)"
    assert further_rows(evaluation)[-4][1:] == (share, share)


def test_every_judge_but_the_headlines_tells_who_complies() -> None:
    assert labels(judged("compliance", "refusal")) == [
        "Complying by refusal: unseen harmful prompts",
        "Degenerate by refusal: unseen harmful prompts",
        "Complying by refusal: harmful prompts of other kinds",
        "Degenerate by refusal: harmful prompts of other kinds",
        "Complying by refusal: unseen normal prompts",
    ]
    # Who cannot tell compliance has no row for it.
    assert not any("Complying" in row for row in labels(judged("classifier", complying=None)))


def test_every_score_has_a_row() -> None:
    for field in dataclasses.fields(Scores):
        value = getattr(BASE, field.name)
        other = dict.fromkeys(value, 0.99) if isinstance(value, dict) else 99.0
        changed_scores = dataclasses.replace(BASE, **{field.name: other})
        altered = dataclasses.replace(EVALUATION, base=changed_scores)
        assert tables(altered) != tables(EVALUATION), field.name


def tables(evaluation: Evaluation) -> list[tuple[str, ...]]:
    rows = headline(EvaluationRecord.of(evaluation)).rows
    return [*(row.told for row in rows), *further_rows(evaluation)]


def test_the_card_says_what_it_is_and_how_to_use_it(recipe: Recipe) -> None:
    recipe = changed(
        recipe,
        base_model={"path": "org/model", "quantization": "nf4"},
        data={"forget": {"path": "org/bad"}, "retain": {"path": "org/good"}},
    )
    card = model_card(recipe, NEGATED, EVALUATION, version="9.8.7")
    head = yaml.safe_load(card.split("---")[1])
    assert head["base_model"] == "org/model"
    assert head["library_name"] == "peft"
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    compile(code[1], "card", "exec")
    assert 'AutoModelForCausalLM.from_pretrained("org/model")' in code[1]
    card = " ".join(card.split())
    for fact in ("9.8.7", "strength 0.5", "`org/bad`", "`org/good`", "nf4", "4 steps of training"):
        assert fact in card
    assert "| Perplexity of normal answers | 7.12 | 8.50 | 1.193 x |" in card
    for row in tables(EVALUATION):
        assert f"| {' | '.join(row)} |" in card
    for count in COUNTS.values():
        assert f" {count} " in card.replace("\n", " ")
    assert "{" not in card


@pytest.mark.parametrize(
    "path",
    ["package://lora_sku/demo/model.gguf", "folder/model.gguf", "package://lora_sku/demo", "/a/b"],
)
def test_the_card_loads_a_base_that_is_not_on_the_hub(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    card = model_card(changed(recipe, base_model={"path": path}), NEGATED, EVALUATION, version="1")
    assert "base_model" not in yaml.safe_load(card.split("---")[1])
    asked: list[tuple[Path, str | None]] = []
    monkeypatch.setattr(
        AutoModelForCausalLM,
        "from_pretrained",
        lambda folder, gguf_file=None: asked.append((Path(folder), gguf_file)),
    )
    monkeypatch.setattr(PeftModel, "from_pretrained", lambda base, folder: None)
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    exec(code[1], {})
    package = Path(lora_sku.__file__).parent
    expected = package / path.removeprefix("package://lora_sku/") if ":" in path else Path(path)
    gguf = path.endswith(".gguf")
    assert asked == [(expected.parent, "model.gguf") if gguf else (expected, None)]


@pytest.mark.parametrize(
    "limit", ["can be undone", "Fine-tuning", "does not prove", "only into the full-precision base"]
)
def test_the_card_tells_its_limits(recipe: Recipe, limit: str) -> None:
    assert limit in model_card(recipe, NEGATED, EVALUATION, version="1")
