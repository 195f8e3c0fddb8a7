"""The command line: words in, one paragraph and an exit code out."""

import errno
import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from run_tools import ADAPTER, changed, metrics_of, tree, write_recipe
from safetensors import SafetensorError
from safetensors.torch import load_file

from lora_sku import adapters
from lora_sku.cli import _without_collection, main
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import load_recipe, shipped_recipes

Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No hub, and none of this machine's cached models."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def call() -> Call:
    def call(*words: str | Path) -> Result:
        return CliRunner().invoke(main, [str(word) for word in words])

    return call


@pytest.fixture
def recipe(recipe: Recipe) -> Recipe:
    return changed(recipe, training={"max_steps": 2, "save_steps": 1})


@pytest.fixture
def path(recipe: Recipe, tmp_path: Path) -> Path:
    """The tiny recipe as a file."""
    return write_recipe(recipe, tmp_path / "tiny.yaml")


def refused(result: Result) -> str:
    """The message of a refusal, after its form has been checked."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    progress, error, message = result.stderr.partition("Error: ")
    assert error
    assert all(line.startswith(("==", "step ")) for line in progress.splitlines())
    assert "\n\n" not in message
    assert message.endswith((".\n", "?\n"))
    return message.strip()


# The bad inputs that everybody meets


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, text
    path.write_text(text.replace(old, new), encoding="utf-8")


def line_of(path: Path, text: str) -> int:
    lines = path.read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if text in line)


def misspelt_key(path: Path, recipe: Recipe) -> str:
    edit(path, "learning_rate:", "learning_rat:")
    where = f"{path}:{line_of(path, 'learning_rat:')}: training.learning_rat"
    return rf"{re.escape(where)}.*learning_rate"


def two_faults_at_once(path: Path, recipe: Recipe) -> str:
    edit(path, "max_steps: 2", "max_steps: 0")
    edit(path, "strength: 1.0", "strength: -1.0")
    steps, strength = line_of(path, "max_steps"), line_of(path, "strength")
    return rf"(?s):{steps}: training\.max_steps.*:{strength}: negation\.strength"


def unknown_quantization(path: Path, recipe: Recipe) -> str:
    edit(path, "quantization: none", "quantization: nf5")
    where = f"{path}:{line_of(path, 'nf5')}: base_model.quantization"
    return rf"{re.escape(where)}.*nf4, fp4, int8, none.*nf5"


def missing_data_file(path: Path, recipe: Recipe) -> str:
    Path(recipe.data.forget.path).rename(Path(recipe.data.forget.path).with_name("forgot.jsonl"))
    return r"forget\.jsonl.*forgot\.jsonl"


def missing_column(path: Path, recipe: Recipe) -> str:
    file = Path(recipe.data.retain.path)
    file.write_text(file.read_text() + '{"prompt": "What?", "respnse": "So."}\n')
    number = len(file.read_text().splitlines())
    return rf"{re.escape(str(file))}:{number}: .*'response'.*respnse.*data\.retain\.on_bad_record"


def broken_line(path: Path, recipe: Recipe) -> str:
    file = Path(recipe.data.forget.path)
    file.write_text('{"prompt": \n' + file.read_text())
    return rf"{re.escape(str(file))}:1: .*JSON"


def empty_set(path: Path, recipe: Recipe) -> str:
    Path(recipe.data.forget.path).write_text("")
    return rf"{re.escape(recipe.data.forget.path)}: holds no records.*data\.forget\.path"


def forget_equals_retain(path: Path, recipe: Recipe) -> str:
    forget = Path(recipe.data.forget.path)
    forget.write_text(Path(recipe.data.retain.path).read_text())
    return r"data\.retain: 10 pairs.*forget set and in the retain set.*Take them out"


def prompt_too_long(path: Path, recipe: Recipe) -> str:
    file = Path(recipe.data.retain.path)
    record = {"prompt": "Where " * 200, "response": "Here."}
    file.write_text(file.read_text() + json.dumps(record) + "\n")
    return r"data\.max_prompt_tokens: .*longer than 64.*'Where Where.*data\.on_long_prompt"


def absent_model(path: Path, recipe: Recipe) -> str:
    edit(path, f"path: {recipe.base_model.path}", "path: org/no-such-model")
    return r"org/no-such-model"


def absent_model_folder(path: Path, recipe: Recipe) -> str:
    edit(path, f"path: {recipe.base_model.path}", f"path: {recipe.base_model.path}x")
    return rf"{re.escape(recipe.base_model.path)}x.*calm-llama"


def unknown_module(path: Path, recipe: Recipe) -> str:
    edit(path, "target_modules: all-linear", "target_modules: [q_prj]")
    return r"adapter\.target_modules: q_prj.*Linear layers here: .*q_proj"


@pytest.mark.parametrize(
    "spoil",
    [
        misspelt_key,
        two_faults_at_once,
        unknown_quantization,
        missing_data_file,
        missing_column,
        broken_line,
        empty_set,
        forget_equals_retain,
        prompt_too_long,
        absent_model,
        absent_model_folder,
        unknown_module,
    ],
)
def test_bad_input_is_told_where_it_is_and_leaves_nothing(
    call: Call, path: Path, recipe: Recipe, spoil: Callable[[Path, Recipe], str]
) -> None:
    pattern = spoil(path, recipe)
    message = refused(call("run", path))
    assert re.search(pattern, message), message
    assert not Path(recipe.output_dir).exists()


def test_a_missing_recipe_is_told_with_the_nearest_names(call: Call, tmp_path: Path) -> None:
    assert "smollm2-135m" in refused(call("run", "smollm-135m"))
    assert "gone.yaml" in refused(call("validate", tmp_path / "gone.yaml"))


def test_an_override_is_told_as_such(call: Call, path: Path) -> None:
    message = refused(call("run", path, "--set", "training.max_stepz=3"))
    assert re.search(r"--set training\.max_stepz.*max_steps", message)
    assert "--set" in refused(call("validate", path, "--set", "nonsense"))


def test_an_adapter_of_another_base_is_refused(
    call: Call, path: Path, recipe: Recipe, other_llama: Path
) -> None:
    assert call("run", path).exit_code == 0
    adapter = Path(recipe.output_dir) / "adapter"
    before = tree(adapter.parent)
    message = refused(call("evaluate", path, adapter, "--set", f"base_model.path={other_llama}"))
    assert str(adapter) in message
    assert re.search(rf"another base than {re.escape(str(other_llama))}", message)
    assert tree(adapter.parent) == before


def test_too_little_space_is_told_before_anything_is_written(
    call: Call, path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 0

    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    message = refused(call("run", path))
    assert re.search(rf"{re.escape(recipe.output_dir)}: .*0\.00 GiB free.*--output", message)
    assert not Path(recipe.output_dir).exists()


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left (os error 28)"),
    ],
    ids=["text", "tensors"],
)
def test_a_disk_that_fills_up_leaves_nothing_half_written_and_the_run_goes_on(
    call: Call, path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(adapters, "save_file", full)
        message = refused(call("run", path))
    folder = Path(recipe.output_dir)
    assert re.search(rf"{re.escape(str(folder))}/harmful-adapter: no space left", message)
    assert not any(folder.glob("*adapter*"))
    assert not any(folder.glob(".*"))
    assert call("run", path, "--resume").exit_code == 0
    assert (folder / "adapter" / ADAPTER).is_file()


def test_an_error_of_the_program_itself_is_not_hidden(
    call: Call, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_sku.stages.load_data", None)
    result = call("run", path)
    assert isinstance(result.exception, TypeError)


# run


def test_run_prints_a_table_and_the_adapters_place(call: Call, path: Path, recipe: Recipe) -> None:
    result = call("run", path)
    assert result.exit_code == 0
    adapter = Path(recipe.output_dir) / "adapter"
    assert f"Negated adapter: {adapter}" in result.stdout
    assert re.search(r"Peak memory \d\.\d\d GiB \(\w+\)\.", result.stdout)
    assert "NLL of harmful answers, unseen prompts (nats/token)" in result.stdout
    assert "== acquire" in result.stderr
    steps = [line for line in result.stderr.splitlines() if line.startswith("step 2/2")]
    pattern = r"step 2/2  GD \d\.\d{3}  RD \d\.\d{3}  PD \d\.\d{3}  \d+\.\d\d GiB  \d+:\d\d left"
    assert len(steps) == 1
    assert re.fullmatch(pattern, steps[0])


def test_json_of_a_run_is_all_of_stdout(call: Call, path: Path, recipe: Recipe) -> None:
    result = call("run", path, "--json")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    written = json.loads((Path(recipe.output_dir) / "evaluation.json").read_text())
    assert {key: summary.pop(key) for key in written} == written
    assert summary["folder"] == recipe.output_dir
    assert summary["adapter"] == str(Path(recipe.output_dir) / "adapter")
    assert list(summary) == ["folder", "adapter", "memory"]
    assert summary["memory"]["acquire"]["resident_gib"] > 0.1


def test_json_is_pure_in_a_process_of_its_own(path: Path) -> None:
    program = [sys.executable, "-c", "from lora_sku.cli import main; main()"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*program, "run", str(path), "--json"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["forget_seen_prompts"] > 0
    assert all(
        re.match(r"== \w+$|step |likelihood of |base answers|unlearned answers", line)
        for line in done.stderr.splitlines()
    ), done.stderr


def test_output_resume_overwrite_and_set_reach_the_run(
    call: Call, path: Path, recipe: Recipe, tmp_path: Path
) -> None:
    folder = tmp_path / "else"
    assert "no run to resume" in refused(call("run", path, "--output", folder, "--resume"))
    assert call("run", path, "--output", folder, "--set", "training.max_steps=1").exit_code == 0
    assert load_recipe(folder / "recipe.yaml").training.max_steps == 1
    assert len(metrics_of(folder)) == 1
    assert "already here" in refused(call("run", path, "--output", folder))
    assert "training.max_steps was 1 and is now 2" in refused(
        call("run", path, "--output", folder, "--resume")
    )
    assert call("run", path, "--output", folder, "--overwrite").exit_code == 0
    assert len(metrics_of(folder)) == 2
    assert not Path(recipe.output_dir).exists()


def test_overwriting_with_a_broken_recipe_leaves_the_old_run(
    call: Call, path: Path, recipe: Recipe
) -> None:
    assert call("run", path).exit_code == 0
    folder = Path(recipe.output_dir)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for override in ("training.max_steps=0", "base_model.path=./gone", "data.forget.path=./gone"):
        refused(call("run", path, "--overwrite", "--set", override))
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


# acquire and negate


def test_acquire_then_negate_is_what_run_does(
    call: Call, path: Path, recipe: Recipe, tmp_path: Path
) -> None:
    result = call("acquire", path)
    harmful = Path(recipe.output_dir) / "harmful-adapter"
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"Harmful adapter: {harmful}",
        f"Next: lora-sku negate {harmful}",
    ]
    result = call("negate", harmful)
    assert result.exit_code == 0
    negated = harmful.with_name("harmful-adapter-negated")
    assert result.stdout == f"Negated adapter: {negated}\n"
    assert not (negated / "DO-NOT-SHIP").exists()
    assert call("run", path, "--output", tmp_path / "whole").exit_code == 0
    whole = tmp_path / "whole" / "adapter" / ADAPTER
    assert (negated / ADAPTER).read_bytes() == whole.read_bytes()


@pytest.fixture
def acquired(call: Call, path: Path, tmp_path: Path) -> Path:
    assert call("acquire", path, "--output", tmp_path / "acquired").exit_code == 0
    return tmp_path / "acquired" / "harmful-adapter"


def test_negate_takes_a_strength_and_an_output(call: Call, acquired: Path, tmp_path: Path) -> None:
    half, whole = tmp_path / "half", tmp_path / "whole"
    assert call("negate", acquired, "--output", whole).exit_code == 0
    assert call("negate", acquired, "--output", half, "--strength", "0.5").exit_code == 0
    one, other = load_file(whole / ADAPTER), load_file(half / ADAPTER)
    for key, value in one.items():
        factor = 0.5 if "lora_B" in key else 1
        assert (other[key] == factor * value).all()


def test_negate_names_its_output_after_the_folder_it_stands_in(
    call: Call, acquired: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(acquired)
    assert call("negate", ".").exit_code == 0
    assert (acquired.with_name("harmful-adapter-negated") / ADAPTER).is_file()


def test_negating_twice_is_said_aloud(call: Call, acquired: Path) -> None:
    assert call("negate", acquired).exit_code == 0
    result = call("negate", acquired.with_name("harmful-adapter-negated"))
    assert "HARMFUL" in result.stderr
    again = acquired.with_name("harmful-adapter-negated-negated")
    assert result.stdout == f"Harmful adapter: {again}\n"
    assert (again / "DO-NOT-SHIP").is_file()


def test_negate_refuses_what_it_cannot_do(call: Call, acquired: Path, tmp_path: Path) -> None:
    target = acquired.with_name("harmful-adapter-negated")
    for strength in ("0", "-1", "nan", "inf"):
        assert "strength" in refused(call("negate", acquired, "--strength", strength))
    assert "no such folder" in refused(call("negate", tmp_path / "gone"))
    assert "replace the one" in refused(call("negate", acquired, "--output", acquired))
    assert not target.exists()
    assert call("negate", acquired).exit_code == 0
    assert "already exists" in refused(call("negate", acquired))
    assert call("negate", acquired, "--overwrite", "--strength", "2").exit_code == 0
    # Its own run directory is no adapter: it must not be wiped out.
    message = refused(call("negate", acquired, "--output", acquired.parent, "--overwrite"))
    assert "something else than an adapter" in message
    assert (acquired / ADAPTER).is_file()


def test_a_word_that_is_no_number_is_a_usage_error(call: Call, acquired: Path) -> None:
    result = call("negate", acquired, "--strength", "much")
    assert result.exit_code == 2
    assert "'much' is not a valid float" in result.stderr


# evaluate, validate, recipes


def test_evaluate_prints_the_runs_own_figures(call: Call, path: Path, recipe: Recipe) -> None:
    assert call("run", path).exit_code == 0
    folder = Path(recipe.output_dir)
    before = tree(folder)
    result = call("evaluate", path, folder / "adapter", "--json")
    assert result.exit_code == 0
    written = json.loads((folder / "evaluation.json").read_text())
    printed = json.loads(result.stdout)
    assert printed["counts"] == written["counts"]
    for column in ("base", "unlearned"):
        for name, value in written[column].items():
            assert printed[column][name] == pytest.approx(value, rel=1e-4, abs=1e-6)
    assert "Base beside unlearned" in call("evaluate", path, folder / "adapter").stdout
    assert tree(folder) == before


@pytest.fixture
def kept_adapter(call: Call, recipe: Recipe, path: Path) -> Path:
    """The tiny recipe's acquired adapter."""
    assert call("acquire", path).exit_code == 0
    return Path(recipe.output_dir) / "harmful-adapter"


def test_sweep_prints_the_points_and_writes_them(
    call: Call, path: Path, kept_adapter: Path, tmp_path: Path
) -> None:
    before = tree(kept_adapter)
    words = ("sweep", path, kept_adapter, "--set", "negation.refusals_budget=null")
    output = tmp_path / "sweep.json"
    result = call(*words, "--output", output)
    assert result.exit_code == 0, result.stderr
    written = json.loads(output.read_text())
    assert written["choice"] in written["points"]
    assert result.stdout.count("chosen") == 1
    assert f"All points: {output}" in result.stdout.replace("\n", "")
    rows = [line for line in result.stdout.splitlines() if "\u2502" in line]
    assert len(rows) == len(written["points"])
    assert tree(kept_adapter) == before
    assert "already exists" in refused(call(*words, "--output", output))
    again = call(*words, "--output", output, "--overwrite", "--json")
    assert json.loads(again.stdout) == json.loads(output.read_text()) == written


def test_sweep_looks_at_the_adapter_before_it_loads_anything(
    call: Call, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_sku.stages.load_data", None)
    told = refused(call("sweep", path, tmp_path / "nosuch", "--output", tmp_path / "s.json"))
    assert "no such folder" in told
    assert not (tmp_path / "s.json").exists()


def test_validate_describes_the_data(call: Call, path: Path, recipe: Recipe) -> None:
    result = call("validate", path)
    assert result.exit_code == 0
    assert result.stdout.startswith("The recipe is valid.\n")
    assert "forget: 24 records -> 12 prompts, 24 pairs" in result.stdout
    report = json.loads(call("validate", path, "--json").stdout)
    assert report["recipe"] == "valid"
    assert report["data"]["retain"]["prompts"] == 10
    assert not Path(recipe.output_dir).exists()


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_validates_without_a_network(
    call: Call, name: str, calm_llama: Path
) -> None:
    if name == "smollm2-135m":  # its data is here; a small stand-in for its model will do
        # Its tokens are little more than bytes, so that prompts take more of them.
        stand_in = [f"base_model.path={calm_llama}", "data.max_prompt_tokens=1000"]
        overrides = [word for override in stand_in for word in ("--set", override)]
        result = call("validate", name, *overrides, "--json")
        assert result.exit_code == 0, result.stderr
        assert json.loads(result.stdout)["data"]["forget"]["prompts"] > 0
        return
    result = call("validate", name, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["recipe"], report["data"]) == ("valid", None)
    assert load_recipe(name).data.forget.path in report["not_checked"]
    text = call("validate", name).stdout
    assert text.startswith("The recipe is valid. Its data was not checked: ")


def test_recipes_are_listed(call: Call) -> None:
    facts = json.loads(call("recipes", "--json").stdout)
    assert facts.keys() == shipped_recipes().keys()
    assert facts["llama2-7b-paper"] == {
        "model": "meta-llama/Llama-2-7b-hf",
        "quantization": "nf4",
        "forget": "PKU-Alignment/PKU-SafeRLHF",
        "retain": "truthfulqa/truthful_qa",
    }
    text = call("recipes").stdout
    assert all(f"{name}\n  model   " in text for name in facts)


def test_help_and_version(call: Call) -> None:
    text = call("--help").stdout
    for command in ("run", "acquire", "negate", "sweep", "evaluate", "validate", "recipes"):
        assert f"\n  {command} " in text
        assert call(command, "--help").exit_code == 0
    assert re.search(r"\d+\.\d+", call("--version").stdout)


# plan


def test_plan_prints_a_table_and_json_and_needs_no_model(call: Call) -> None:
    told = call("plan", "llama2-7b")
    assert told.exit_code == 0, told.output
    assert "base weights" in told.stdout
    facts = json.loads(call("plan", "llama2-7b", "--json").stdout)
    assert facts["total"] == max(stage["total"] for stage in facts["stages"])
    assert facts["cards"]["24"] is True
    assert (facts["enough"], facts["knobs"]) == (None, [])


def test_plan_exits_with_1_if_the_memory_is_not_enough(call: Call, path: Path) -> None:
    small = call("plan", "llama2-13b-paper", "--gpu-memory", "6GiB", "--json")
    assert (small.exit_code, json.loads(small.stdout)["enough"]) == (1, False)
    assert json.loads(small.stdout)["knobs"]
    assert call("plan", path, "--gpu-memory", "24GiB", "--tokens", "100").exit_code == 0
    assert "memory of a card" in refused(
        call("plan", path, "--gpu-memory", "24GiB", "--device", "cpu")
    )
    assert call("plan", path, "--gpu-memory", "plenty").exit_code == 2
    assert call("plan", path, "--gpu-memory", "0GiB").exit_code == 2


def test_loading_without_collection_leaves_the_collector_as_it_was() -> None:
    with _without_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
