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
from lora_sku.judging import Judgement
from lora_sku.likeness import Likeness
from lora_sku.model_card import model_card, table_rows
from lora_sku.recipe import Recipe
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
COUNTS = {
    "forget_seen_prompts": 11,
    "forget_unseen_prompts": 12,
    "retain_unseen_prompts": 13,
    "forget_unseen_generations": 14,
    "retain_unseen_generations": 15,
}
NEGATED = Provenance("negated", 0.5, "fingerprint")
EVALUATION = Evaluation(base=BASE, unlearned=UNLEARNED, counts=COUNTS, generations=())


def test_the_table_puts_every_figure_in_its_row_and_column() -> None:
    assert table_rows(EVALUATION) == [
        ("NLL of harmful answers, trained prompts (nats/token)", "1.500", "4.000"),
        ("NLL of harmful answers, unseen prompts (nats/token)", "2.250", "3.750"),
        ("Perplexity of normal answers, unseen prompts", "7.12", "8.50"),
        ("KL to the base at those answers (nats/token)", "0.000", "0.062"),
        ("Refusing answers to unseen harmful prompts", "12 %", "75 %"),
        ("Refusing answers to unseen normal prompts", "0 %", "25 %"),
        ("Degenerate answers to unseen harmful prompts", "0 %", "50 %"),
        ("Degenerate answers to unseen normal prompts", "6 %", "100 %"),
    ]


def test_every_protected_set_has_a_row() -> None:
    told = dataclasses.replace(EVALUATION, protected={"shop": Protected(4.0, 5.0, 0.25)})
    row = ("Perplexity of normal answers, unseen prompts of shop", "4.00", "5.00 (1.250 x)")
    assert [r for r in table_rows(told) if r not in table_rows(EVALUATION)] == [row]


def test_the_change_at_own_answers_has_rows() -> None:
    kl, ratio = "KL at the base's own answers to unseen", "Selectivity: the first of these KLs"
    told = dataclasses.replace(EVALUATION, own=OwnKL(0.5, 0.25, 3, 4))
    assert [r for r in table_rows(told) if r not in table_rows(EVALUATION)] == [
        (f"{kl} harmful prompts (nats/token)", "0", "0.5000"),
        (f"{kl} normal prompts (nats/token)", "0", "0.2500"),
        (f"{ratio} over the second", "", "2.00"),
    ]
    told = dataclasses.replace(EVALUATION, own=OwnKL(None, 0.25, 0, 4))
    assert [r[2] for r in table_rows(told)[4:7]] == ["none kept", "0.2500", "unknown"]


def with_lookalikes(scores: Scores, refusing: float) -> Scores:
    return dataclasses.replace(
        scores,
        refusal_rate=scores.refusal_rate | {"lookalikes": refusing},
        degenerate_rate=scores.degenerate_rate | {"lookalikes": 0.5},
    )


def test_lookalikes_have_rows_where_they_were_asked() -> None:
    told = dataclasses.replace(
        EVALUATION, base=with_lookalikes(BASE, 0.0), unlearned=with_lookalikes(UNLEARNED, 0.25)
    )
    assert [row for row in table_rows(told) if row not in table_rows(EVALUATION)] == [
        ("Refusing answers to harmless look-alike prompts", "0 %", "25 %"),
        ("Degenerate answers to harmless look-alike prompts", "50 %", "50 %"),
    ]
    column = dict.fromkeys(("forget_unseen", "lookalikes"), rates(1, 0, 0, complying=1))
    judged = {"compliance": Judgement({"base": column, "unlearned": column}, {})}
    last = table_rows(dataclasses.replace(told, judgements=judged))[-1]
    assert last[0] == "Complying answers to harmless look-alike prompts, by compliance"


def test_the_card_says_how_many_lookalikes_were_answered(recipe: Recipe) -> None:
    asked = dataclasses.replace(EVALUATION, counts=COUNTS | {"lookalikes_generations": 16})
    told = "So were 16 harmless prompts that sound harmful. In brackets"
    assert told in model_card(recipe, NEGATED, asked, version="1")
    assert "sound harmful" not in model_card(recipe, NEGATED, EVALUATION, version="1")


def test_likeness_has_two_rows() -> None:
    told = dataclasses.replace(EVALUATION, likeness=Likeness(0.75, 0.5, 0.25, 8))
    rows = [row for row in table_rows(told) if row not in table_rows(EVALUATION)]
    assert [row[1:] for row in rows] == [("1", "0.750"), ("0.500", "0.250")]
    assert ["base's" in row[0] for row in rows] == [True, False]


def test_tasks_have_a_row_for_each_metric() -> None:
    scores = {
        "colours": {"acc": BeforeAfter(0.5, 0.25), "acc_stderr": BeforeAfter(0.125, 0.0625)},
        "words": {"f1": BeforeAfter(0.5, None)},
    }
    told = dataclasses.replace(EVALUATION, lm_eval=scores)
    assert [row for row in table_rows(told) if row not in table_rows(EVALUATION)] == [
        ("lm-eval colours: acc", "0.500 \u00b1 0.125", "0.250 \u00b1 0.062"),
        ("lm-eval words: f1", "0.500", "no number"),
    ]


def rates(harmful: int, degenerate: int, benign: int, complying: int | None) -> Rates:
    counts = {"harmful": harmful, "refusal": 0, "degenerate": degenerate, "benign": benign}
    return Rates(counts, complying)


def test_a_judges_harmful_rate_stands_beside_its_degenerate_rate() -> None:
    judged = {
        "base": {
            "forget_unseen": rates(10, 0, 0, complying=10),
            "retain_unseen": rates(0, 0, 10, complying=9),
        },
        "unlearned": {
            "forget_unseen": rates(0, 5, 5, complying=0),
            "retain_unseen": rates(0, 0, 10, complying=5),
        },
    }
    altered = dataclasses.replace(EVALUATION, judgements={"openai": Judgement(judged, {})})
    harmful, normal = "unseen harmful prompts", "unseen normal prompts"
    assert table_rows(altered)[8:] == [
        (f"Harmful answers to {harmful}, by openai", "100 % (72 to 100)", "0 % (0 to 28)"),
        (f"Degenerate answers to {harmful}, by openai", "0 % (0 to 28)", "50 % (24 to 76)"),
        (f"Complying answers to {normal}, by openai", "90 % (60 to 98)", "50 % (24 to 76)"),
    ]


@pytest.mark.parametrize("judge", ["compliance", "refusal"])
def test_who_cannot_see_harm_is_not_said_to(judge: JudgeName) -> None:
    column = dict.fromkeys(("forget_unseen", "retain_unseen"), rates(1, 0, 0, complying=1))
    told = {judge: Judgement({"base": column, "unlearned": column}, {})}
    rows = table_rows(dataclasses.replace(EVALUATION, judgements=told))[8:]
    assert [row[0].split()[0] for row in rows] == ["Complying", "Degenerate", "Complying"]


def test_who_cannot_tell_compliance_has_no_row_for_it() -> None:
    column = dict.fromkeys(("forget_unseen", "retain_unseen"), rates(0, 0, 1, complying=None))
    told = {"openai": Judgement({"base": column, "unlearned": column}, {})}
    rows = table_rows(dataclasses.replace(EVALUATION, judgements=told))[8:]
    assert [row[0].split()[0] for row in rows] == ["Harmful", "Degenerate"]


def test_nothing_judged_is_no_share() -> None:
    column = dict.fromkeys(("forget_unseen", "retain_unseen"), rates(0, 0, 0, complying=0))
    told = {"openai": Judgement({"base": column, "unlearned": column}, {})}
    rows = table_rows(dataclasses.replace(EVALUATION, judgements=told))[8:]
    assert {cell for row in rows for cell in row[1:]} == {"none judged"}


def test_every_score_has_a_row() -> None:
    for field in dataclasses.fields(Scores):
        value = getattr(BASE, field.name)
        other = dict.fromkeys(value, 0.99) if isinstance(value, dict) else 99.0
        changed_scores = dataclasses.replace(BASE, **{field.name: other})
        altered = dataclasses.replace(EVALUATION, base=changed_scores)
        assert table_rows(altered) != table_rows(EVALUATION), field.name


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
    for label, base, unlearned in table_rows(EVALUATION):
        assert f"| {label} | {base} | {unlearned} |" in card
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
