"""The whole command on a tiny model: units on disk, reruns that go on, settings that must fit."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tradeoff_tools import smallest_words

from benchmarks import tradeoff
from lora_sku.acquisition import Acquisition, OnStep, StepRecord
from lora_sku.errors import UserError
from lora_sku.recipe import Recipe

SEED = 8888


@pytest.fixture
def words(recipe: Recipe, tmp_path: Path) -> list[str]:
    return smallest_words(recipe, tmp_path)


def invoke(words: list[str], *more: str) -> Any:
    return CliRunner().invoke(tradeoff.main, [*words, *more], catch_exceptions=False)


def test_units_are_kept_and_a_killed_benchmark_goes_on(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    real = Acquisition.run

    def killed_in_the_second(self: Acquisition, on_step: OnStep, *, start: int = 0) -> None:
        begun.append(start)
        if len(begun) == 2:
            raise RuntimeError("killed")
        real(self, on_step, start=start)

    monkeypatch.setattr(Acquisition, "run", killed_in_the_second)
    methods = ["npo", "sku-preserve", "sku-retain-aware"]
    only = tuple(word for method in methods for word in ("--only", method))
    with pytest.raises(RuntimeError, match="killed"):
        invoke(words, *only)
    npo = tmp_path / "out" / "units" / f"npo-{SEED}.json"
    kept = npo.read_text(encoding="utf-8")
    assert not (tmp_path / "out" / "units" / f"sku-preserve-{SEED}.json").exists()

    done = invoke(words, *only, "--transfer")
    assert len(begun) == 3  # the finished unit was not trained again, and ours has no training
    assert npo.read_text(encoding="utf-8") == kept
    assert "2 of 3 units to compute" in done.stderr
    report = Path(done.stdout.strip())
    text = report.read_text(encoding="utf-8")
    assert "Forgetting, unseen harmful prompts" in text
    raw = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    assert [unit["method"] for unit in raw["units"]] == methods
    assert raw["transfer"]["none"] == pytest.approx(1.0, abs=0.05)  # the tiny base is unquantized
    assert not list((tmp_path / "out" / "training").iterdir())
    for unit in raw["units"]:
        assert unit["answers"] is None
        assert unit["scores"]["harmful"]["total"] == 3
        assert unit["trials"][0]["answer_tokens"] > 0

    with pytest.raises(UserError, match="other settings: sizes"):
        invoke(words, *only, "--steps", "3")
    redone = invoke(words, "--only", "npo", "--force")
    assert len(begun) == 4
    assert redone.exit_code == 0


def test_what_is_finished_can_be_reported_before_the_rest(words: list[str]) -> None:
    with pytest.raises(UserError, match="no unit is finished here"):
        invoke(words, "--finished")
    invoke(words, "--only", "npo")
    report = Path(invoke(words, "--finished").stdout.strip()).with_suffix(".json")
    units = json.loads(report.read_text(encoding="utf-8"))["units"]
    assert [unit["method"] for unit in units] == ["npo"]
    assert invoke(words, "--finished", "--force").exit_code == 2


def test_units_of_a_method_that_has_changed_since_are_refused(
    words: list[str], tmp_path: Path
) -> None:
    only = ("--only", "npo")
    invoke(words, *only)
    file = tmp_path / "out" / "units" / f"npo-{SEED}.json"
    unit = json.loads(file.read_text(encoding="utf-8"))
    assert unit["definition"]["objective"]["answers"][0]["pairs"] == "harmful"
    unit["definition"]["objective"]["preserve"] = 3.0
    file.write_text(json.dumps(unit), encoding="utf-8")
    for more in ((), ("--finished",)):
        with pytest.raises(UserError, match="definition of this method: objective"):
            invoke(words, *only, *more)
    invoke(words, *only, "--force")
    assert json.loads(file.read_text(encoding="utf-8"))["definition"]["objective"]["preserve"] == 1
    del unit["definition"]  # as before definitions were kept
    file.write_text(json.dumps(unit), encoding="utf-8")
    assert "0 of 1 units to compute" in invoke(words, *only).stderr


def test_answers_of_another_judge_are_refused_or_judged_again(
    words: list[str], tmp_path: Path
) -> None:
    only = ("--only", "npo")
    report = Path(invoke(words, *only).stdout.strip()).with_suffix(".json")
    base, npo = (tmp_path / "out" / name for name in ("base.json", f"units/npo-{SEED}.json"))
    written = [file.read_text(encoding="utf-8") for file in (base, npo)]
    before, unit = map(json.loads, written)
    before["judge"]["pmi"]["value"] -= 1.0
    unit["scores"]["harmful"] |= {"complying": 99, "by_prompt": [True] * 3}
    for file, kept in ((base, before), (npo, unit)):
        file.write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(UserError, match="another judge, or one with other borders") as refused:
        invoke(words, *only)
    assert "--rejudge" in str(refused.value.remedy)
    invoke(words, *only, "--rejudge")
    assert [json.loads(f.read_text(encoding="utf-8")) for f in (base, npo)] == [
        json.loads(text) for text in written
    ]

    npo.write_text(json.dumps(unit | {"answers": None}), encoding="utf-8")
    with pytest.raises(UserError, match=f"what npo {SEED} answered is not here"):
        invoke(words, *only, "--rejudge")
    raw = json.loads(report.read_text(encoding="utf-8"))
    raw["judge"]["pmi"]["value"] -= 1.0
    report.write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(UserError, match="judged this report's answers"):
        invoke([*words, "--out", str(tmp_path / "other")], *only, "--known", str(report))


def test_a_report_is_gone_on_with_where_its_units_are_not(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Path(invoke(words, "--only", "npo").stdout.strip()).with_suffix(".json")
    begun: list[str] = []
    real = Acquisition.run

    def counted(self: Acquisition, on_step: OnStep, *, start: int = 0) -> None:
        begun.append("a training")
        real(self, on_step, start=start)

    monkeypatch.setattr(Acquisition, "run", counted)
    elsewhere = [*words, "--out", str(tmp_path / "elsewhere")]
    both = ("--only", "npo", "--only", "ga", "--known", str(first))
    second = Path(invoke(elsewhere, *both).stdout.strip()).with_suffix(".json")
    assert len(begun) == 1
    raw = [json.loads(file.read_text(encoding="utf-8")) for file in (first, second)]
    found = [{unit["method"]: unit for unit in report["units"]} for report in raw]
    assert found[1]["npo"] == found[0]["npo"]
    assert found[1]["ga"]["scores"] is not None

    with pytest.raises(UserError, match="report was made with other settings: sizes"):
        invoke([*words, "--out", str(tmp_path / "third")], *both, "--steps", "3")
    known = ("--only", "npo", "--known", str(first))
    with pytest.raises(UserError, match="is not here, only its figures"):
        invoke([*words, "--out", str(tmp_path / "fourth")], *known, "--transfer")
    for number, other in enumerate(("{}", '{"settings": 3, "units": []}', "no JSON")):
        first.write_text(other, encoding="utf-8")
        with pytest.raises(UserError, match="not the raw figures of a trade-off report"):
            invoke([*words, "--out", str(tmp_path / f"bad-{number}")], *both)


def test_units_from_where_the_base_scores_otherwise_are_refused(
    words: list[str], tmp_path: Path
) -> None:
    report = Path(invoke(words, "--only", "npo").stdout.strip()).with_suffix(".json")
    base = tmp_path / "out" / "base.json"
    for file, key in ((report, "base"), (base, "scores")):
        raw = json.loads(file.read_text(encoding="utf-8"))
        raw[key]["general_nll"] += 1e-6
        file.write_text(json.dumps(raw), encoding="utf-8")
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(UserError, match="not this machine's") as refused:
        invoke([*words, "--out", str(elsewhere)], "--only", "npo", "--known", str(report))
    assert refused.value.where == str(report)
    assert not (elsewhere / "units").exists()
    with pytest.raises(UserError, match="not this machine's") as refused:
        invoke(words, "--only", "npo")
    assert refused.value.where == str(base)


def test_a_training_that_collapses_is_told_and_scored_nowhere(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_sku.errors import TrainingError

    def collapse(self: Acquisition, on_step: OnStep, *, start: int = 0) -> None:
        on_step(StepRecord(1, None, None, None, 1.0, 1.0, 1e-3, 7, 2, 0.5, 0.1))
        raise TrainingError("the gradient became nan", where="step 2", remedy="Lower it.")

    monkeypatch.setattr(Acquisition, "run", collapse)
    assert invoke(words, "--only", "ga").exit_code == 0
    file = tmp_path / "out" / "units" / f"ga-{SEED}.json"
    unit = json.loads(file.read_text(encoding="utf-8"))
    assert unit["scores"] is None
    assert unit["trials"][0]["failed"] == "training: the gradient became nan"
    assert (unit["trials"][0]["train_seconds"], unit["trials"][0]["answer_tokens"]) == (0.5, 7)


def test_rates_are_tried_by_what_is_trained(words: list[str], tmp_path: Path) -> None:
    rates = ("--learning-rate", "1e-2", "--learning-rate", "1e-3")
    only = (
        "--only",
        "npo",
        "--only",
        "sku-answers-only",
        "--set",
        "training.natural_step={tokens: 40}",
    )
    assert invoke(words, *rates, *only).exit_code == 0
    units = tmp_path / "out" / "units"
    tried = {
        name: [trial["learning_rate"] for trial in json.loads(file.read_text())["trials"]]
        for name in ("npo", "sku-answers-only")
        for file in units.glob(f"{name}-*.json")
    }
    assert tried == {"npo": [1e-2, 1e-3], "sku-answers-only": [1e-2]}


def test_an_unknown_method_is_refused(words: list[str]) -> None:
    with pytest.raises(UserError, match="no such method: gradient"):
        invoke(words, "--only", "gradient")
