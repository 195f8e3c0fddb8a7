"""Recipe -> run directory, whole, on a tiny model."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from run_tools import (
    ADAPTER,
    HARMFUL_FILES,
    RUN_FILES,
    Finished,
    changed,
    datasets,
    encoder_of,
    finish,
    metrics_of,
    tree,
    with_everything,
)
from safetensors.torch import load_file
from tiny import FURTHER
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lora_sku import pipeline, session, stages
from lora_sku.base_checks import forbid_cpu_repacking
from lora_sku.data import Encoder, Row, load_rows
from lora_sku.errors import AdapterError, SourceError
from lora_sku.evaluation import Scores
from lora_sku.judging import GENERATION_SPLITS
from lora_sku.recipe import EvaluationSection, Recipe
from lora_sku.recipe_file import load_recipe


@pytest.fixture(scope="module", params=["nf4", "int8", "none"])
def finished(
    request: pytest.FixtureRequest, calm_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> Finished:
    folder = tmp_path_factory.mktemp(request.param)
    return finish(calm_llama, folder, base_model={"quantization": request.param})


SPLITS = ["forget_unseen", "prefilled", "retain_unseen", "lookalikes"]

# What a run leaves behind


def test_a_run_leaves_its_evidence_and_nothing_harmful(finished: Finished) -> None:
    assert tree(finished.result.folder) == RUN_FILES
    assert finished.result.folder == Path(finished.recipe.output_dir)
    assert finished.result.adapter == finished.result.folder / "adapter"
    assert sorted(p.name for p in finished.result.folder.parent.iterdir()) == ["data", "run"]


def test_the_evaluation_has_the_same_scores_in_both_columns(finished: Finished) -> None:
    evaluation = finished.evaluation()
    columns = ["base", "unlearned", "counts", "protected", "own_answers", "likeness"]
    columns += ["lm_eval", "judges"]
    assert list(evaluation) == columns
    names = [field.name for field in dataclasses.fields(Scores)]
    for column in ("base", "unlearned"):
        scores = evaluation[column]
        assert list(scores) == names
        for name in ("refusal_rate", "degenerate_rate"):
            assert list(scores[name]) == SPLITS
            assert all(0 <= share <= 1 for share in scores[name].values())
    assert evaluation == finished.result.evaluation.as_dict()


def test_each_generation_stands_beside_the_bases(finished: Finished) -> None:
    lines = (finished.result.folder / "generations.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    keys = ["split", "prompt", "base", "unlearned", "verdicts", "prefill"]
    assert [list(row) for row in rows] == [keys] * 8
    assert [row["split"] for row in rows] == [split for split in SPLITS for _ in range(2)]
    assert [row["prefill"] for row in rows] == [""] * 2 + ["Sure, here is how"] * 2 + [""] * 4
    data = datasets(finished.recipe)
    assert {r["prompt"] for r in rows[:2]} <= {row.prompt for row in data.forget.unseen}
    assert [r["prompt"] for r in rows[2:4]] == [r["prompt"] for r in rows[:2]]
    assert {r["prompt"] for r in rows[4:6]} <= {row.prompt for row in data.retain.unseen}
    lookalikes = EvaluationSection().lookalikes
    assert lookalikes is not None
    shipped = {row.prompt for row in load_rows(lookalikes, "retain").rows}
    assert {r["prompt"] for r in rows[6:]} <= shipped


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


# Stages of their own


def test_what_the_evaluation_lacks_is_told_before_anything_is_loaded(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = pipeline.run(changed(recipe, training={"max_steps": 1})).adapter
    monkeypatch.setattr(stages, "load_base", lambda *_: pytest.fail("loaded"))
    gone = {"path": str(tmp_path / "gone.jsonl"), "format": "prompt-response"}
    for section in ("lookalikes", "other_harm"):
        asked = changed(recipe, evaluation={section: gone})
        for refuse in (
            lambda asked=asked: pipeline.run(asked, output=tmp_path / "new"),
            lambda asked=asked: pipeline.evaluate(asked, adapter),
            lambda asked=asked: pipeline.validate(asked),
        ):
            with pytest.raises(SourceError, match=rf"evaluation\.{section}\.path.*no such file"):
                refuse()
    assert not (tmp_path / "new").exists()


def test_a_recipe_may_ask_no_lookalikes_and_put_nothing_in_the_models_mouth(
    recipe: Recipe,
) -> None:
    result = pipeline.run(changed(recipe, evaluation={"lookalikes": None, "prefill": None}))
    assert {g.split for g in result.evaluation.generations} == {"forget_unseen", "retain_unseen"}


def test_a_run_with_every_loss_and_every_set(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    real = session.Acquisition

    def spy(*args: Any) -> Any:
        given.extend(args)
        return real(*args)

    monkeypatch.setattr(session, "Acquisition", spy)
    recipe = changed(with_everything(recipe, tmp_path), evaluation={"judges": ["refusal"]})
    result = pipeline.run(recipe)
    data = datasets(recipe)
    # Every normal set is preserved; safe responses come by prompt or from the recipe's list.
    normal = {row.prompt for splits in data.normal.values() for row in splits.train}
    assert {row.prompt for row in given[3]} == normal
    assert list(data.normal) == ["retain", "sums", "hard_negatives"]
    assert given[4].answers == recipe.losses.safe_response.answers
    assert set(given[4].by_prompt) == {prompt.lower() for prompt in FURTHER["safe_responses"]}
    lines = metrics_of(result.folder)
    terms = {"guided_distortion", "random_disassociation", "preservation_divergence"}
    terms |= {"safe_response", "held_responses"}
    assert all(terms <= line.keys() for line in lines)
    evaluation = json.loads((result.folder / "evaluation.json").read_text())
    assert list(evaluation["unlearned"]["refusal_rate"]) == [*GENERATION_SPLITS]
    assert list(evaluation["protected"]) == ["sums", "hard_negatives"]
    assert list(evaluation["judges"]["refusal"]["unlearned"]) == [*GENERATION_SPLITS]
    asked: dict[str, set[str]] = {}
    for g in result.evaluation.generations:
        asked.setdefault(g.split, set()).add(g.prompt)
    assert asked["other_harm"] <= set(FURTHER["other_harm"])
    hard = data.protect["hard_negatives"]
    assert asked["hard_negatives_unseen"] == {row.prompt for row in hard.unseen}
    # The recipe as resolved is enough to evaluate again.
    again = pipeline.evaluate(load_recipe(result.folder / "recipe.yaml"), result.adapter)
    assert again.generations == result.evaluation.generations
    pipeline.validate(recipe)


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
