"""Tasks of lm-evaluation-harness: faults before any training, and both models on the same ones.

Most of this runs on a stand-in for the package, so that it is tested where the extra is missing.
"""

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
import yaml
from tiny import adapt, load, teach

from lora_sku.errors import TaskError
from lora_sku.harness import Tasks, load_tasks, measure_both
from lora_sku.model import AdaptedModel, Base
from lora_sku.recipe import LmEvalSection
from lora_sku.task_scores import Measured


class FakeTask:
    """Remembers what it was told."""

    def __init__(self, name: str, shots: int | None = None, **flags: bool) -> None:
        self.name = name
        self.config: dict[str, Any] = {"num_fewshot": shots}
        self.seeds: list[int] = []
        self.built: list[int] = []
        vars(self).update(flags)

    def get_config(self, key: str) -> Any:
        return self.config.get(key)

    def set_config(self, key: str, value: Any) -> None:
        self.config[key] = value

    def set_fewshot_seed(self, seed: int) -> None:
        self.seeds.append(seed)

    def build_all_requests(self, limit: int, rank: int, world_size: int) -> None:
        print("building")
        assert self.name != "broken", "no such split"
        self.built.append(limit)


class FakeManager:
    """Knows five tasks and a group of the first two."""

    made: ClassVar[list["FakeManager"]] = []

    def __init__(self, include_path: str | None) -> None:
        self.include_path = include_path
        self.tasks = {
            "colours": FakeTask("colours"),
            "zero_shot": FakeTask("zero_shot", shots=0),
            "broken": FakeTask("broken"),
            "code": FakeTask("code", UNSAFE_CODE=True),
            "pictures": FakeTask("pictures", MULTIMODAL=True),
        }
        self.all_tasks = [*self.tasks, "both"]
        FakeManager.made.append(self)

    def load(self, names: list[str]) -> dict[str, dict[str, Any]]:
        (name,) = names
        if name == "both":
            children = ["colours", "zero_shot"]
            tasks = {child: self.tasks[child] for child in children}
            return {"tasks": tasks, "groups": {"both": object()}, "group_map": {"both": children}}
        return {"tasks": {name: self.tasks[name]}, "groups": {}, "group_map": {}}


class FakeModel(SimpleNamespace):
    """The harness's `HFLM`."""

    def loglikelihood(self, **given: Any) -> dict[str, Any]:
        return given

    loglikelihood_rolling = generate_until = loglikelihood


class FakeEvaluate:
    """The harness's `evaluate`: its figures are what the test says."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.results: dict[str, dict[str, Any]] = {}

    def __call__(self, **given: Any) -> dict[str, Any]:
        print("for people")
        process = os.environ["DISABLE_MULTIPROC"]
        self.calls.append(given | {"process": process, "drawn": float(torch.rand(1))})
        lm = given["lm"]
        for kind in (lm.loglikelihood, lm.loglikelihood_rolling, lm.generate_until):
            assert kind() == {"disable_tqdm": True}
        asked = given["task_dict"]["tasks"] | given["task_dict"]["groups"]
        return {"results": {name: told for name, told in self.results.items() if name in asked}}


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> FakeEvaluate:
    """Puts the stand-in where the package would be."""
    monkeypatch.setattr(FakeManager, "made", [])
    fake = FakeEvaluate()
    for name, content in {
        "lm_eval": {},
        "lm_eval.tasks": {"TaskManager": FakeManager},
        "lm_eval.evaluator": {"evaluate": fake},
        "lm_eval.models": {},
        "lm_eval.models.huggingface": {"HFLM": FakeModel},
    }.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return fake


def measure(tasks: Tasks, base: Base, batch_size: int = 1) -> Measured:
    return tasks.measure(base, batch_size, lambda *_: None)


def section(*tasks: str, **keys: Any) -> LmEvalSection:
    return LmEvalSection(tasks=tasks, **keys)


# Before any training


def test_a_missing_package_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(
        TaskError, match=r"evaluation\.lm_eval: .*pip install 'lora-sku\[lm-eval\]'"
    ):
        load_tasks(section("colours"))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (section("colors"), r"no task colors\. Near colors: colours"),
        (section("colours", "qqq"), r"no task qqq\. `lm-eval ls tasks` lists them"),
        (section("broken"), r"the task broken cannot be loaded: no such split"),
        (section("code"), r"the task code runs code that the model writes\. Leave it out"),
        (section("pictures"), r"the task pictures asks about more than text"),
        (section("colours", include_path="/no/such"), r"include_path: there is no folder /no/such"),
    ],
)
def test_what_cannot_be_run_is_told(
    evaluate: FakeEvaluate, asked: LmEvalSection, told: str
) -> None:
    with pytest.raises(TaskError, match=told):
        load_tasks(asked)


def test_a_folder_of_further_tasks_is_handed_on(evaluate: FakeEvaluate, tmp_path: Path) -> None:
    load_tasks(section("colours", include_path=str(tmp_path)))
    load_tasks(section("colours"))
    assert [manager.include_path for manager in FakeManager.made] == [str(tmp_path), None]


@pytest.mark.parametrize(("wanted", "own"), [(None, (0, 0)), (5, (5, 0)), (0, (0, 0))])
def test_examples_are_set_but_where_a_task_wants_none(
    evaluate: FakeEvaluate, wanted: int | None, own: tuple[int, int]
) -> None:
    load_tasks(section("colours", "zero_shot", num_fewshot=wanted))
    tasks = FakeManager.made[0].tasks
    assert (tasks["colours"].config, tasks["zero_shot"].config) == tuple(
        {"num_fewshot": shots} for shots in own
    )
    assert tasks["colours"].built == [1]  # one request, to see that it can be


# Measuring


def test_the_model_in_memory_is_asked_and_left_as_it_was(
    evaluate: FakeEvaluate, base: Base, capsys: pytest.CaptureFixture[str]
) -> None:
    base.tokenizer.pad_token = None
    tasks = load_tasks(section("colours", limit=7))
    before, torch_before = random.getstate(), torch.get_rng_state()
    evaluate.results = {"colours": {"acc,none": 0.5, "sample_len": 7}}
    assert measure(tasks, base, 3) == Measured({"colours": {"acc": 0.5}}, {"colours": 7})
    assert measure(tasks, base, 3).documents == {"colours": 7}
    first, second = evaluate.calls
    assert first["lm"].pretrained is base.model
    assert first["lm"].batch_size == 3
    assert first["lm"].tokenizer is not base.tokenizer
    assert (first["limit"], first["process"]) == (7, "1")
    assert first["drawn"] == second["drawn"]
    seeds = FakeManager.made[0].tasks["colours"].seeds
    assert len(seeds) == 2
    assert len(set(seeds)) == 1
    assert random.getstate() == before
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert "DISABLE_MULTIPROC" not in os.environ
    assert capsys.readouterr().out == ""  # stdout may be JSON


def test_each_task_is_told_when_it_is_done(evaluate: FakeEvaluate, base: Base) -> None:
    told: list[tuple[int, int]] = []
    tasks = load_tasks(section("colours", "zero_shot"))
    tasks.measure(base, 1, lambda done, all_: told.append((done, all_)))
    assert told == [(1, 2), (2, 2)]
    assert [list(call["task_dict"]["tasks"]) for call in evaluate.calls] == [
        ["colours"],
        ["zero_shot"],
    ]


def test_figures_are_the_finite_numbers_with_short_names(
    evaluate: FakeEvaluate, base: Base
) -> None:
    evaluate.results = {
        "colours": {
            "alias": "colours",
            "name": "colours",
            "sample_len": 2,
            "acc,none": 1,
            "acc_stderr,none": "N/A",
            "exact_match,strict": 0.25,
            "perplexity,none": float("inf"),
        }
    }
    found = measure(load_tasks(section("colours")), base)
    assert found.metrics == {
        "colours": {"acc": 1.0, "exact_match,strict": 0.25, "perplexity": None}
    }


@pytest.mark.parametrize(
    ("asked", "group", "told"),
    [
        (("both",), {"acc,none": 0.5}, ["both"]),
        (("both", "colours"), {"acc,none": 0.5}, ["both", "colours"]),
        (("both",), {"alias": "both"}, ["colours", "zero_shot"]),  # it has no figure of its own
    ],
)
def test_a_group_stands_for_its_tasks(
    evaluate: FakeEvaluate, base: Base, asked: tuple[str, ...], group: Any, told: list[str]
) -> None:
    evaluate.results = {"colours": {"acc,none": 0.25}, "zero_shot": {"acc,none": 0.75}}
    evaluate.results["both"] = group
    assert list(measure(load_tasks(section(*asked)), base).metrics) == told


def test_the_base_is_measured_with_the_adapter_off(base: Base) -> None:
    model = adapt(base)

    class Watching:
        def measure(self, asked: Base, batch_size: int, on_task: Any) -> Measured:
            assert (asked, batch_size) == (base, 5)
            on_task(1, 1)
            off = all(layer._disable_adapters for layer in model.adapted_layers)
            return Measured({"off": {"off": float(off)}}, {})

    watching: Tasks = Watching()
    progress: list[tuple[str, int, int]] = []
    found = measure_both(watching, model, 5, lambda *told: progress.append(told))
    assert [each.metrics["off"]["off"] for each in found] == [1.0, 0.0]
    assert progress == [("lm-eval tasks, base", 1, 1), ("lm-eval tasks, unlearned", 1, 1)]


# The package itself

COLOURS = {"grass": 0, "snow": 1, "coal": 2, "moss": 0, "milk": 1, "soot": 2}
TASK = {
    "task": "tiny_colours",
    "dataset_path": "json",
    "test_split": "test",
    "fewshot_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "What is the colour of {{thing}}?",
    "doc_to_choice": ["green", "white", "black"],
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


@pytest.fixture
def folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A folder with a multiple-choice task and a group, both local; only its tasks are known."""
    pytest.importorskip("lm_eval")
    from lm_eval import tasks

    # Reading the package's own fourteen thousand tasks takes long, and none of them is local.
    class Manager(tasks.TaskManager):  # type: ignore[misc]
        def __init__(self, include_path: str) -> None:
            super().__init__(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(tasks, "TaskManager", Manager)
    data = tmp_path / "colours.jsonl"
    rows = [{"thing": thing, "answer": answer} for thing, answer in COLOURS.items()]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = TASK | {
        "dataset_kwargs": {
            "data_files": {"test": str(data)},
            "cache_dir": str(tmp_path_factory.mktemp("cache")),
        }
    }
    (tmp_path / "colours.yaml").write_text(yaml.safe_dump(told))
    group = {
        "group": "tiny_group",
        "task": ["tiny_colours"],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}],
    }
    (tmp_path / "group.yaml").write_text(yaml.safe_dump(group))
    return str(tmp_path)


@pytest.fixture
def model(calm_llama: Path) -> AdaptedModel:
    model = adapt(load(calm_llama))
    teach(model, std=0.5)
    model.peft_model.eval()
    return model


def chosen_by_hand(model: AdaptedModel) -> float:
    """Accuracy of the likeliest choice, each read off the model's own logits."""
    tokenizer, right = model.base.tokenizer, 0
    for thing, answer in COLOURS.items():
        asked = f"What is the colour of {thing}?"
        scores = []
        for choice in TASK["doc_to_choice"]:
            start = len(tokenizer(asked)["input_ids"])
            ids = torch.tensor([tokenizer(f"{asked} {choice}")["input_ids"]])
            with torch.no_grad():
                logits = model.base.model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            taken = logits.gather(1, ids[0, 1:, None])[start - 1 :]
            scores.append(float(taken.sum()))
        right += scores.index(max(scores)) == answer
    return right / len(COLOURS)


def test_the_package_scores_both_models_as_their_logits_say(
    folder: str, model: AdaptedModel
) -> None:
    tasks = load_tasks(section("tiny_colours", include_path=folder))
    base, unlearned = measure_both(tasks, model, 4)
    assert unlearned.metrics["tiny_colours"]["acc"] == pytest.approx(chosen_by_hand(model))
    with model.reference_mode():
        assert base.metrics["tiny_colours"]["acc"] == pytest.approx(chosen_by_hand(model))
    assert base.documents == unlearned.documents == {"tiny_colours": 6}
    assert base.metrics["tiny_colours"].keys() == {"acc", "acc_stderr"}


def test_the_package_gives_an_unchanged_model_the_same_figures(
    folder: str, calm_llama: Path
) -> None:
    keys: dict[str, Any] = {"include_path": folder, "num_fewshot": 2, "limit": 5}
    tasks = load_tasks(section("tiny_group", "tiny_colours", **keys))
    base, unlearned = measure_both(tasks, adapt(load(calm_llama)), 2)
    assert base == unlearned
    assert base.documents == {"tiny_colours": 5, "tiny_group": 5}
    alone = measure(load_tasks(section("tiny_group", **keys)), load(calm_llama))
    assert list(alone.metrics) == ["tiny_group"]


def test_the_packages_own_faults_are_told(folder: str, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="Near tiny_colors: tiny_colours"):
        load_tasks(section("tiny_colors", include_path=folder))
    (tmp_path / "colours.jsonl").unlink()
    with pytest.raises(
        TaskError, match=r"the task tiny_colours cannot be loaded: .*colours\.jsonl"
    ):
        load_tasks(section("tiny_colours", include_path=folder))


@pytest.fixture
def bytes_of() -> Callable[[Base], list[bytes]]:
    return lambda base: [
        p.detach().view(torch.uint8).numpy().tobytes() for p in base.model.parameters()
    ]


def test_the_package_leaves_the_base_and_its_tokenizer_alone(
    folder: str, model: AdaptedModel, bytes_of: Callable[[Base], list[bytes]]
) -> None:
    model.base.tokenizer.pad_token = None
    before = bytes_of(model.base)
    measure_both(load_tasks(section("tiny_colours", include_path=folder)), model, 4)
    assert bytes_of(model.base) == before
    assert model.base.tokenizer.pad_token is None
