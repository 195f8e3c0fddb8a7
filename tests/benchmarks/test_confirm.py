"""A finished benchmark's adapters on other prompts: as they are, and on those alone."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tradeoff_tools import write_data_folder

from benchmarks import confirm, tradeoff, tradeoff_scores
from benchmarks.tradeoff_data import load_tradeoff_data
from lora_sku.data.rows import normalised
from lora_sku.errors import UserError
from lora_sku.likelihood import AnswerScorer
from lora_sku.model import AdaptedModel, load_base
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import dump_recipe
from lora_sku.stages import load_encoder

METHODS = ("npo", "sku-retain-aware")  # their ranks differ


def run(command: Any, options: dict[str, object], *more: str) -> Any:
    words = [str(word) for option in options.items() for word in option]
    return CliRunner().invoke(command, [*words, *more], catch_exceptions=False)


@pytest.fixture
def common(recipe: Recipe, tmp_path: Path) -> dict[str, object]:
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    data = write_data_folder(tmp_path / "pku")
    dtype = "base_model.compute_dtype=bfloat16"
    return {"--recipe": file, "--data": data, "--reports": tmp_path / "reports", "--set": dtype}


def benched(common: dict[str, object], out: Path, methods: tuple[str, ...], unseen: int) -> Path:
    """One seed of each method, so many unseen prompts of each kind scored."""
    sizes = {"--seeds": 1, "--steps": 2, "--responses": 2, "--new-tokens": 3}
    few = {"--validation-prompts": 1, "--unseen-prompts": unseen, "--out": out}
    only = [word for name in methods for word in ("--only", name)]
    assert run(tradeoff.main, common | sizes | few, *only).exit_code == 0
    return out


@pytest.fixture
def benchmark(common: dict[str, object], tmp_path: Path) -> Path:
    """Two methods, one unseen prompt of each kind."""
    return benched(common, tmp_path / "bench", METHODS, 1)


def test_other_prompts_are_scored_with_the_same_adapters(
    common: dict[str, object],
    benchmark: Path,
    recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scored: list[tuple[torch.dtype, set[str]]] = []
    real = AnswerScorer

    def seen(model: Any, encoder: Any, rows: Any, **keys: Any) -> AnswerScorer:
        scored.append((model.base.model.dtype, {normalised(row.prompt) for row in rows}))
        return real(model, encoder, rows, **keys)

    monkeypatch.setattr(tradeoff_scores, "AnswerScorer", seen)
    options = common | {"--of": benchmark, "--out": tmp_path / "confirmed"}
    with pytest.raises(UserError, match="other settings: base_model"):
        run(confirm.main, options | {"--set": "base_model.compute_dtype=float32"})
    done = run(confirm.main, options)
    encoder = load_encoder(recipe)
    whole = load_tradeoff_data(Path(str(common["--data"])), encoder)
    before = {normalised(of.unseen[0].prompt) for of in (whole.forget, whole.normal)}
    # Three are of given answers, the last two of the base's own.
    assert [dtype for dtype, _ in scored] == [torch.bfloat16] * 3 + [torch.float32] * 2
    asked = set().union(*(prompts for _, prompts in scored[:2]))
    assert asked == {
        normalised(row.prompt) for of in (whole.forget, whole.normal) for row in of.unseen[1:101]
    }
    assert not asked & before

    report = Path(done.stdout.strip()).with_suffix(".json")
    raw = json.loads(report.read_text(encoding="utf-8"))
    assert [unit["method"] for unit in raw["units"]] == list(METHODS)
    units = {unit["method"]: unit for unit in raw["units"]}
    for name, unit in units.items():
        known = json.loads((benchmark / "units" / f"{name}-8888.json").read_text())
        assert unit["trials"] == known["trials"]
        assert unit["answers"] is None
        counts = unit["scores"]["harmful"]
        assert counts["total"] == len(counts["by_prompt"]) == 2
        assert sum(counts["by_prompt"]) == counts["complying"]
        section = recipe.base_model.model_copy(update={"compute_dtype": "bfloat16"})
        adapter = benchmark / "adapters" / f"{name}-8888"
        model = AdaptedModel.with_adapter_from(load_base(section), adapter)
        model.peft_model.eval()
        alone = real(model, encoder, whole.forget.unseen[1:], pairs_at_once=8).score().nll
        assert unit["scores"]["forget_nll"] == pytest.approx(alone, rel=1e-6)
    assert len({units[name]["scores"]["forget_nll"] for name in METHODS}) == 2
    assert "How sure compliance is" in report.with_suffix(".md").read_text()


def test_what_is_scored_is_not_scored_again(
    common: dict[str, object], benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = common | {"--of": benchmark, "--out": tmp_path / "confirmed"}
    run(confirm.main, options, "--only", "sku-retain-aware")
    scored: list[str] = []
    real = tradeoff_scores.Rulers.score

    def counted(self: Any, answers: Any) -> Any:
        scored.append("a unit")
        return real(self, answers)

    monkeypatch.setattr(tradeoff_scores.Rulers, "score", counted)
    assert run(confirm.main, options).exit_code == 0
    assert len(scored) == 1

    file = tmp_path / "confirmed" / "units" / "sku-retain-aware-8888.json"
    unit = json.loads(file.read_text(encoding="utf-8"))
    unit["trials"][0]["strength"] *= 2  # as if the benchmark had computed it again since
    file.write_text(json.dumps(unit), encoding="utf-8")
    run(confirm.main, options, "--only", "sku-retain-aware")
    assert len(scored) == 2


def test_adapters_of_a_method_that_has_changed_since_are_refused(
    common: dict[str, object], benchmark: Path, tmp_path: Path
) -> None:
    source = tmp_path / "benchmark"
    shutil.copytree(benchmark, source)
    file = source / "units" / f"{METHODS[0]}-8888.json"
    unit = json.loads(file.read_text(encoding="utf-8"))
    unit["definition"]["rank"] += 1
    file.write_text(json.dumps(unit), encoding="utf-8")
    options = common | {"--of": source, "--out": tmp_path / "confirmed"}
    with pytest.raises(UserError, match="definition of this method: rank"):
        run(confirm.main, options)
    assert run(confirm.main, options | {"--only": METHODS[1]}).exit_code == 0


def test_other_strengths_are_rows_of_their_own(
    common: dict[str, object], benchmark: Path, tmp_path: Path
) -> None:
    options = common | {"--of": benchmark, "--out": tmp_path / "confirmed", "--only": METHODS[1]}
    done = run(confirm.main, options, "--multiple", "1e-6", "--multiple", "0.01")
    report = Path(done.stdout.strip())
    units = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))["units"]
    kls = {unit["method"]: unit["scores"]["own_normal_kl"] for unit in units}
    chosen, none, little = (f"{METHODS[1]}{end}" for end in ("", "-x1e-06", "-x0.01"))
    assert list(kls) == [chosen, none, little]
    assert kls[none] == pytest.approx(0, abs=1e-6)
    assert 1e-5 < kls[little] < kls[chosen]
    assert f"{little}: {METHODS[1]} with 0.01 times the strength" in report.read_text()


def test_a_benchmark_that_is_not_there_or_has_no_prompts_left_is_told(
    common: dict[str, object], tmp_path: Path
) -> None:
    options = common | {"--out": tmp_path / "confirmed"}
    with pytest.raises(UserError, match="no trade-off benchmark keeps this folder"):
        run(confirm.main, options | {"--of": tmp_path / "nothing"})
    whole = benched(common, tmp_path / "whole", ("ga",), 3)  # there are three harmful ones
    with pytest.raises(UserError, match="has scored 3 prompts of each kind, and none is left"):
        run(confirm.main, options | {"--of": whole})
