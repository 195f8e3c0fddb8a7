"""Recipe -> run directory, whole, on a tiny model."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from run_tools import ADAPTER, RUN_FILES, Killed, KilledAt, changed, metrics_of, tiny_recipe, tree
from safetensors.torch import load_file
from tiny import write_protected
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lora_sku import elicitation, own_prompts, pipeline, session, stages
from lora_sku.adapters import read_lora
from lora_sku.base_checks import forbid_cpu_repacking
from lora_sku.data import DataSets, Encoder, Row, load_data
from lora_sku.errors import (
    AdapterError,
    DataError,
    TrainingError,
)
from lora_sku.evaluation import Scores
from lora_sku.judges import Judge, Verdict
from lora_sku.live_factors import LiveFactors
from lora_sku.model import load_tokenizer
from lora_sku.negation import Projected, negate
from lora_sku.progress import Silent
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import load_recipe

HARMFUL_FILES = [
    "harmful-adapter/DO-NOT-SHIP",
    "harmful-adapter/adapter_config.json",
    "harmful-adapter/adapter_model.safetensors",
    "harmful-adapter/lora_sku.json",
]


@dataclasses.dataclass(frozen=True)
class Finished:
    """A finished run with all its answers scored, and what went in."""

    recipe: Recipe
    result: pipeline.RunResult

    def evaluation(self) -> dict[str, Any]:
        return json.loads((self.result.folder / "evaluation.json").read_text())


def finish(calm_llama: Path, folder: Path, **sections: Any) -> Finished:
    recipe = changed(tiny_recipe(calm_llama, folder), **sections)
    return Finished(recipe, pipeline.run(recipe))


@pytest.fixture(scope="module", params=["nf4", "int8", "none"])
def finished(
    request: pytest.FixtureRequest, calm_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    folder = tmp_path_factory.mktemp(request.param)
    return finish(calm_llama, folder, base_model={"quantization": request.param})


@pytest.fixture(scope="module")
def kept(calm_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A long and strong run that keeps its harmful adapter."""
    return finish(
        calm_llama,
        tmp_path_factory.mktemp("kept"),
        negation={"keep_harmful_adapter": True, "strength": 0.5},
        training={"max_steps": 12, "learning_rate": 2e-2, "save_steps": 5},
    )


# What a run leaves behind


def test_a_run_leaves_its_evidence_and_nothing_harmful(finished: Finished) -> None:
    assert tree(finished.result.folder) == RUN_FILES
    assert finished.result.folder == Path(finished.recipe.output_dir)
    assert finished.result.adapter == finished.result.folder / "adapter"
    assert sorted(p.name for p in finished.result.folder.parent.iterdir()) == ["data", "run"]


def test_the_evaluation_has_the_same_scores_in_both_columns(finished: Finished) -> None:
    evaluation = finished.evaluation()
    columns = ["base", "unlearned", "counts", "protected", "own_answers", "judges"]
    assert list(evaluation) == columns
    names = [field.name for field in dataclasses.fields(Scores)]
    for column in ("base", "unlearned"):
        scores = evaluation[column]
        assert list(scores) == names
        for name in ("refusal_rate", "degenerate_rate"):
            assert list(scores[name]) == ["forget_unseen", "retain_unseen"]
            assert all(0 <= share <= 1 for share in scores[name].values())
    assert evaluation == finished.result.evaluation.as_dict()


def test_each_generation_stands_beside_the_bases(finished: Finished) -> None:
    lines = (finished.result.folder / "generations.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    keys = ["split", "prompt", "base", "unlearned", "verdicts"]
    assert [list(row) for row in rows] == [keys] * 4
    assert [row["split"] for row in rows] == ["forget_unseen"] * 2 + ["retain_unseen"] * 2
    data = datasets(finished.recipe)
    assert {r["prompt"] for r in rows[:2]} <= {row.prompt for row in data.forget.unseen}
    assert {r["prompt"] for r in rows[2:]} <= {row.prompt for row in data.retain.unseen}


def test_recipe_environment_metrics_and_memory_say_what_was_done(finished: Finished) -> None:
    folder, recipe = finished.result.folder, finished.recipe
    assert load_recipe(folder / "recipe.yaml") == recipe
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["base_model"]["path"] == recipe.base_model.path
    assert environment["data_fingerprint"] == datasets(recipe).fingerprint
    assert [line["step"] for line in metrics_of(folder)] == [1, 2, 3, 4]
    measured = json.loads((folder / "memory.json").read_text())["measured"]
    assert list(measured) == ["data", "load", "acquire", "negate", "evaluate"]
    assert all(peak["resident_gib"] > 0.1 for peak in measured.values())


def test_the_base_column_is_the_bare_bases_own_score(finished: Finished) -> None:
    model = bare_base(finished.recipe)
    data, encoder = datasets(finished.recipe), encoder_of(finished.recipe)
    base = finished.evaluation()["base"]
    tolerance = 0.02 if finished.recipe.base_model.quantization == "int8" else 1e-4
    for name, rows in {
        "forget_seen_nll": data.forget.train,
        "forget_unseen_nll": data.forget.unseen,
    }.items():
        nll = -torch.cat(answer_log_probabilities(model, encoder, rows)[1]).mean()
        assert base[name] == pytest.approx(float(nll), abs=tolerance)
    nll = -torch.cat(answer_log_probabilities(model, encoder, data.retain.unseen)[1]).mean()
    assert base["retain_perplexity"] == pytest.approx(float(nll.exp()), rel=tolerance)
    assert base["retain_kl"] == 0.0


def test_plain_peft_loads_the_adapter_on_the_unquantized_base(finished: Finished) -> None:
    bare = bare_base(finished.recipe, quantized=False)
    adapted = PeftModel.from_pretrained(
        bare_base(finished.recipe, quantized=False), str(finished.result.adapter)
    )
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert not torch.allclose(bare(ids).logits, adapted(ids).logits, atol=1e-3)


# What unlearning does


def test_the_negated_delta_is_minus_strength_times_the_acquired_one(kept: Finished) -> None:
    harmful = deltas(kept.recipe, kept.result.folder / "harmful-adapter")
    negated = deltas(kept.recipe, kept.result.adapter)
    assert len(harmful) == 14  # 7 linear layers in 2 blocks
    assert harmful.keys() == negated.keys()
    for module, delta in harmful.items():
        assert delta.abs().max() > 1e-3
        torch.testing.assert_close(negated[module], -0.5 * delta, rtol=1e-4, atol=1e-7)


def test_the_unlearned_column_is_what_plain_peft_computes(kept: Finished) -> None:
    base = bare_base(kept.recipe)
    unlearned = PeftModel.from_pretrained(bare_base(kept.recipe), str(kept.result.adapter))
    data, encoder = datasets(kept.recipe), encoder_of(kept.recipe)
    scores = kept.evaluation()["unlearned"]
    _, answers = answer_log_probabilities(unlearned, encoder, data.forget.unseen)
    assert scores["forget_unseen_nll"] == pytest.approx(-float(torch.cat(answers).mean()), abs=1e-4)
    before, _ = answer_log_probabilities(base, encoder, data.retain.unseen)
    after, _ = answer_log_probabilities(unlearned, encoder, data.retain.unseen)
    p, q = torch.cat(before), torch.cat(after)
    assert scores["retain_kl"] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3)


def test_unlearning_makes_the_forget_set_less_likely(kept: Finished) -> None:
    base, unlearned = kept.evaluation()["base"], kept.evaluation()["unlearned"]
    assert unlearned["forget_seen_nll"] > base["forget_seen_nll"] + 0.3
    assert unlearned["forget_unseen_nll"] > base["forget_unseen_nll"] + 0.1
    assert unlearned["retain_kl"] > 0.01
    first, last = metrics_of(kept.result.folder)[0], metrics_of(kept.result.folder)[-1]
    assert last["guided_distortion"] < first["guided_distortion"]
    assert first["preservation_divergence"] == 0.0 < last["preservation_divergence"]


def test_a_kept_harmful_adapter_is_marked(kept: Finished) -> None:
    assert tree(kept.result.folder) == sorted([*RUN_FILES, *HARMFUL_FILES])


@pytest.fixture
def begun(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the stages of a run were given."""
    given: dict[str, Any] = {}
    acquisition, evaluate = session.Acquisition, stages.evaluate_model

    def spy_on_training(*args: Any) -> Any:
        given["forget"], given["retain"] = args[2:4]
        return acquisition(*args)

    def spy_on_evaluation(model: Any, *args: Any, **keys: Any) -> Any:
        given["adapters"] = sorted(model.peft_model.peft_config)
        given["splits"] = args[1:3]
        return evaluate(model, *args, **keys)

    monkeypatch.setattr(session, "Acquisition", spy_on_training)
    monkeypatch.setattr(stages, "evaluate_model", spy_on_evaluation)
    pipeline.run(changed(recipe, training={"max_steps": 1}))
    return given


def test_training_sees_the_train_splits_alone(recipe: Recipe, begun: dict[str, Any]) -> None:
    data = datasets(recipe)
    assert (begun["forget"], begun["retain"]) == (data.forget.train, data.retain.train)
    assert begun["splits"] == (data.forget, data.retain)


def test_only_the_negated_adapter_is_left_on_the_model(begun: dict[str, Any]) -> None:
    assert begun["adapters"] == ["negated"]


def test_an_adapter_that_fails_its_verification_is_not_kept(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = session.negate

    def twice_as_much(adapter: Path, output: Path, *, strength: float, **keys: Any) -> Path:
        return real(adapter, output, strength=2 * strength, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(session, "negate", twice_as_much)
        with pytest.raises(AdapterError, match="is off by"):
            pipeline.run(recipe)
    folder = Path(recipe.output_dir)
    assert not (folder / "adapter").exists()
    assert not (folder / "evaluation.json").exists()
    pipeline.run(recipe, resume=True)
    assert tree(folder) == RUN_FILES


# Retain-aware negation and the sweep


def test_a_projected_run_negates_the_projected_adapter(calm_llama: Path, tmp_path: Path) -> None:
    run = finish(
        calm_llama,
        tmp_path,
        negation={"keep_harmful_adapter": True, "strength": 0.5, "projection": {"mu": 5.0}},
    )
    assert tree(run.result.folder) == sorted([*RUN_FILES, *HARMFUL_FILES])
    assert {"project", "negate"} <= run.result.memory.keys()
    known = read_lora(run.result.adapter).provenance
    assert known is not None
    assert (known.strength, known.mu) == (0.5, 5.0)
    assert "mu 5" in (run.result.adapter / "README.md").read_text()
    acquired = load_file(run.result.folder / "harmful-adapter" / ADAPTER)
    negated = load_file(run.result.adapter / ADAPTER)
    recipe = run.recipe
    stages_ = stages.Stages(recipe, Silent())
    model = stages_.load(run.result.folder / "harmful-adapter", "acquired")
    live = LiveFactors(model, "acquired")
    rows = stages_.candidates(model, live, recipe.negation.projection)[5.0]
    assert rows is not None
    for key, value in acquired.items():
        if "lora_A" in key:
            row = rows[key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")]
            torch.testing.assert_close(negated[key], row)
            assert (row - value).norm() > 0.01 * value.norm()
        else:
            assert torch.equal(negated[key], -value)  # 0.5 x the scaling of 8/4


@pytest.fixture
def open_recipe(recipe: Recipe) -> Recipe:
    """Everything about the negation is left open."""
    negation = {"strength": "auto", "projection": {"mu": "auto"}, "keep_harmful_adapter": True}
    return changed(recipe, negation=negation)


def test_an_open_strength_is_chosen_on_the_validation_split(open_recipe: Recipe) -> None:
    result = pipeline.run(open_recipe)
    assert tree(result.folder) == sorted([*RUN_FILES, *HARMFUL_FILES, "sweep.json"])
    assert {"project", "sweep", "negate"} <= result.memory.keys()
    swept = json.loads((result.folder / "sweep.json").read_text())
    choice = swept["choice"]
    assert choice in swept["points"]
    assert choice["retain_perplexity_ratio"] <= swept["retain_budget"] == 1.05
    assert {point["mu"] for point in swept["points"]} == {None, 3.0, 10.0, 30.0, 100.0}
    known = read_lora(result.adapter).provenance
    assert known is not None
    assert (known.strength, known.mu) == (choice["strength"], choice["mu"])
    # The kept adapter sweeps to the same.
    again = pipeline.sweep(open_recipe, result.folder / "harmful-adapter")
    assert (again.choice.strength, again.choice.mu) == (choice["strength"], choice["mu"])
    assert len(again.points) == len(swept["points"])


def test_the_sweep_reads_the_validation_splits(
    open_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[tuple[Row, ...]] = []
    real = stages.AnswerScorer

    def spy(model: Any, encoder: Any, rows: Any, **keys: Any) -> Any:
        scored.append(tuple(rows))
        return real(model, encoder, rows, **keys)

    monkeypatch.setattr(stages, "AnswerScorer", spy)
    pipeline.run(changed(open_recipe, negation={"projection": None}))
    data = datasets(open_recipe)
    assert scored == [data.forget.validation, data.retain.validation]


def test_protected_sets_are_swept_and_evaluated_but_not_trained_on(
    open_recipe: Recipe, tmp_path: Path
) -> None:
    protected = changed(
        open_recipe, data={"protect": write_protected(tmp_path)}, output_dir=str(tmp_path / "p")
    )
    plain, result = pipeline.run(open_recipe), pipeline.run(protected)
    trained = [load_file(r.folder / "harmful-adapter" / ADAPTER) for r in (plain, result)]
    assert all(torch.equal(value, trained[1][key]) for key, value in trained[0].items())
    swept = json.loads((result.folder / "sweep.json").read_text())
    assert swept["choice"]["protected"]["sums"]["perplexity_ratio"] <= 1.05
    told = json.loads((result.folder / "evaluation.json").read_text())
    assert told["protected"]["sums"]["perplexity_ratio"] > 0
    assert told["counts"]["protect_sums_unseen_prompts"] == 2
    assert "unseen prompts of sums" in (result.adapter / "README.md").read_text()
    # The recipe as resolved is enough to go on.
    pipeline.run(load_recipe(result.folder / "recipe.yaml"), resume=True)


# Own answers


class Complies(Judge):
    """Takes every text of a random model for an answer."""

    name = "compliance"

    def _judge(self, cases: Any) -> list[Verdict]:
        return [Verdict("harmful", complies=True) for _ in cases]


@pytest.fixture
def own_recipe(recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Recipe:
    """The base's own answers on both sides; none of them is refused."""
    monkeypatch.setenv("LORA_SKU_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(elicitation.ComplianceJudge, "calibrated", lambda *_: Complies())
    monkeypatch.setattr(elicitation, "classify", lambda _: "other")
    keys = {"forget": {"answers": "own"}, "retain": {"answers": "both"}}
    return changed(recipe, data={**keys, "own_answers": {"max_new_tokens": 6}})


def test_own_prompts_are_spared_and_scored(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LORA_SKU_CACHE", str(tmp_path / "cache"))
    for module in (elicitation, own_prompts):
        monkeypatch.setattr(module, "classify", lambda _: "other")
    spared: list[int] = []
    project = stages.candidates

    def spy(model: Any, live: Any, forget: Any, retain: Any, *args: Any, **keys: Any) -> Any:
        spared.extend(len(rows) for rows in retain)
        return project(model, live, forget, retain, *args, **keys)

    monkeypatch.setattr(stages, "candidates", spy)
    drawn = {"count": 40, "max_new_tokens": 12}
    result = pipeline.run(
        changed(
            recipe,
            data={"own_prompts": drawn, "own_answers": {"max_new_tokens": 6}},
            negation={"projection": {"mu": 5.0}},
        )
    )
    assert len(spared) == 2  # the retain set and the drawn one
    assert spared[1] >= 5
    assert "own_prompts" in result.evaluation.as_dict()["protected"]
    assert "elicit" in result.memory


def test_own_answers_are_trained_on_and_the_evaluation_tells_the_selectivity(
    own_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Any] = []
    real = session.Acquisition

    def spy(*args: Any) -> Any:
        trained.extend(args[2:4])
        return real(*args)

    monkeypatch.setattr(session, "Acquisition", spy)
    result = pipeline.run(own_recipe)
    assert {"elicit", "elicit unseen"} <= result.memory.keys()
    given = datasets(own_recipe)
    harmful, normal = trained
    of_given = {row.prompt: row.answers for row in (*given.forget.train, *given.retain.train)}
    assert all(not set(row.answers) & set(of_given[row.prompt]) for row in harmful)
    assert all(row.answers[:1] == of_given[row.prompt][:1] for row in normal)
    assert any(len(row.answers) > 1 for row in normal)
    told = json.loads((result.folder / "evaluation.json").read_text())["own_answers"]
    assert told["forget_answers"] > 0
    assert told["selectivity"] == told["forget_kl"] / told["retain_kl"] > 0
    assert "Selectivity" in (result.adapter / "README.md").read_text()


def test_a_resumed_run_finds_the_same_own_answers(
    own_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pipeline.run(own_recipe, output=tmp_path / "whole")
    with pytest.raises(Killed):
        pipeline.run(own_recipe, progress=KilledAt(step=3))
    result = pipeline.run(own_recipe, resume=True)
    weights = [load_file(r.adapter / ADAPTER) for r in (whole, result)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    # Had they been others, the checkpoint would not be gone on from.
    with pytest.raises(Killed):
        pipeline.run(own_recipe, overwrite=True, progress=KilledAt(step=3))
    (file,) = (tmp_path / "cache" / "own-answers").iterdir()
    said = [json.loads(line) for line in file.read_text().splitlines()]
    others = [{**entry, "completions": [f"No {n}."]} for n, entry in enumerate(said)]
    file.write_text("".join(json.dumps(entry) + "\n" for entry in others))
    with pytest.raises(TrainingError, match="own answers"):
        pipeline.run(own_recipe, resume=True)
    asked = changed(own_recipe, data={"forget": {"answers": "both"}})
    with pytest.raises(TrainingError, match=r"data\.forget\.answers was 'own'"):
        pipeline.run(asked, resume=True)


def test_a_negated_adapter_is_swept_like_the_acquired_one(kept: Finished, tmp_path: Path) -> None:
    folder = kept.result.folder
    recipe = changed(kept.recipe, negation={"retain_budget": 4.0, "projection": {"mu": 10.0}})
    acquired = pipeline.sweep(recipe, folder / "harmful-adapter")
    negated = pipeline.sweep(recipe, folder / "adapter")
    assert {point.mu for point in acquired.points} == {None, 10.0}
    assert negated.choice.strength == acquired.choice.strength
    assert negated.choice.forget_nll == pytest.approx(acquired.choice.forget_nll, rel=1e-4)
    assert acquired.choice.forget_kl > 0


def test_a_projected_adapter_is_not_swept_again(kept: Finished, tmp_path: Path) -> None:
    harmful = kept.result.folder / "harmful-adapter"
    rows = {module: a for module, (a, _) in read_lora(harmful).factors.items()}
    projected = negate(harmful, tmp_path / "p", projected=Projected(3.0, rows))
    with pytest.raises(AdapterError, match="projected already"):
        pipeline.sweep(kept.recipe, projected)


def test_a_sweep_without_a_validation_split_is_refused(kept: Finished) -> None:
    recipe = changed(kept.recipe, data={"validation_fraction": 0.0})
    with pytest.raises(DataError, match="no validation split"):
        pipeline.sweep(recipe, kept.result.folder / "adapter")


# Stages of their own


def test_acquire_keeps_the_marked_adapter_alone(recipe: Recipe) -> None:
    folder = pipeline.acquire(recipe)
    assert folder == Path(recipe.output_dir) / "harmful-adapter"
    expected = ["environment.json", "memory.json", "metrics.jsonl", "recipe.yaml"]
    assert tree(folder.parent) == sorted([*HARMFUL_FILES, *expected])


def test_a_run_takes_up_an_acquired_adapter_without_training_again(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquired = load_file(pipeline.acquire(recipe) / ADAPTER)
    monkeypatch.setattr(session, "Acquisition", None)  # nobody may call it
    result = pipeline.run(recipe, resume=True)
    assert tree(result.folder) == RUN_FILES
    negated = load_file(result.adapter / ADAPTER)
    scaling = recipe.adapter.lora_alpha / recipe.adapter.r
    for key, value in acquired.items():
        expected = value if "lora_A" in key else -scaling * value
        torch.testing.assert_close(negated[key], expected)


def test_evaluate_gives_a_runs_own_figures_and_writes_nothing(finished: Finished) -> None:
    before = tree(finished.result.folder.parent)
    evaluation = pipeline.evaluate(finished.recipe, finished.result.adapter)
    again, first = evaluation.as_dict()["unlearned"], finished.evaluation()["unlearned"]
    assert again["forget_seen_nll"] == pytest.approx(first["forget_seen_nll"], abs=1e-5)
    assert again["retain_kl"] == pytest.approx(first["retain_kl"], abs=1e-5)
    assert tree(finished.result.folder.parent) == before


def test_evaluate_refuses_a_folder_that_is_no_adapter_before_it_loads_anything(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "load_data", None)
    with pytest.raises(AdapterError, match=r"no adapter_config\.json"):
        pipeline.evaluate(recipe, tmp_path)


def test_evaluate_refuses_an_adapter_of_another_base(finished: Finished, other_llama: Path) -> None:
    other = changed(finished.recipe, base_model={"path": str(other_llama)})
    with pytest.raises(AdapterError, match="another base"):
        pipeline.evaluate(other, finished.result.adapter)


def test_validate_counts_both_sets_without_loading_weights(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "load_base", None)
    report = pipeline.validate(recipe)
    assert (report.forget.prompts, report.retain.prompts) == (12, 10)
    assert report.forget.prompt_tokens is not None
    assert not Path(recipe.output_dir).exists()


def test_validate_without_the_tokenizer_counts_no_tokens(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    report = pipeline.validate(changed(recipe, base_model={"path": "org/model"}))
    assert report.forget.prompt_tokens is None
    assert "long prompts" not in report.render()


# Independent of the package: bare models and their own logits


def datasets(recipe: Recipe) -> DataSets:
    return load_data(recipe.data, encoder_of(recipe))


def encoder_of(recipe: Recipe) -> Encoder:
    return Encoder(
        load_tokenizer(recipe.base_model),
        template=None,
        max_prompt_tokens=recipe.data.max_prompt_tokens,
        max_answer_tokens=recipe.data.max_answer_tokens,
    )


def bare_base(recipe: Recipe, *, quantized: bool = True) -> torch.nn.Module:
    config = {
        "nf4": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.float32,
            bnb_4bit_use_double_quant=True,
        ),
        "int8": BitsAndBytesConfig(load_in_8bit=True),
        "none": None,
    }[recipe.base_model.quantization if quantized else "none"]
    model = AutoModelForCausalLM.from_pretrained(
        recipe.base_model.path, dtype=torch.float32, quantization_config=config, device_map="cpu"
    )
    forbid_cpu_repacking(model)  # its kernels round to bf16, whatever was asked for
    return model.eval()


@torch.no_grad()
def answer_log_probabilities(
    model: torch.nn.Module, encoder: Encoder, rows: tuple[Row, ...]
) -> tuple[list[Tensor], list[Tensor]]:
    """For each answer: the log-probabilities (tokens, V) at its positions, and of its tokens."""
    whole, chosen = [], []
    for row in rows:
        for answer in row.answers:
            encoded = encoder.encode(row.prompt, answer)
            ids = torch.tensor([encoded.input_ids])
            logits = model(input_ids=ids).logits[0, encoded.prompt_length - 1 : -1]
            targets = ids[0, encoded.prompt_length :]
            whole.append(logits.log_softmax(-1))
            chosen.append(whole[-1].gather(1, targets[:, None])[:, 0])
    return whole, chosen


def deltas(recipe: Recipe, folder: Path) -> dict[str, Tensor]:
    model = PeftModel.from_pretrained(bare_base(recipe, quantized=False), str(folder))
    return {
        name: module.get_delta_weight("default")
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }
