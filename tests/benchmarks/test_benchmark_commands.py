"""The commands: help without torch, a whole run on tiny models, mistakes told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from benchmarks import judges, memory, processes, speed
from benchmarks.processes import ROOT
from lora_sku.errors import UserError
from lora_sku.recipe import Recipe
from lora_sku.recipe_file import dump_recipe


@pytest.mark.parametrize("module", ["judges", "memory", "planner", "speed"])
def test_help_answers_without_torch(module: str) -> None:
    code = (
        f"import sys; from benchmarks.{module} import main; sys.argv[1:] = ['--help']\n"
        "try: main()\n"
        "finally: print([n for n in ('torch', 'transformers', 'matplotlib') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "Usage:" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_memory_writes_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.cell import measure

    # In this process: the cells' own processes are test_benchmark_cell's.
    monkeypatch.setattr(processes, "run_cell", lambda cell, **_: measure(cell))
    monkeypatch.setattr(processes, "empty_process_gib", lambda: 0.1)
    options = {
        "--shape": "tiny",
        "--only": "ours-nf4",
        "--models": tmp_path / "models",
        "--reports": tmp_path / "reports",
        "--prompt-tokens": 6,
        "--answer-tokens": 4,
        "--limit-gib": 1000,
        "--steps": 1,
    }
    words = [str(word) for option in options.items() for word in option]
    done = CliRunner().invoke(memory.main, words, catch_exceptions=False)
    assert done.exit_code == 0
    report = Path(done.stdout.strip())
    assert "tiny ours-nf4" in report.read_text(encoding="utf-8")
    assert (tmp_path / "models" / "llama-tiny" / "config.json").exists()


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(UserError, match="no such shape: 8b"):
        CliRunner().invoke(memory.main, ["--shape", "8b"], catch_exceptions=False)


def test_an_unknown_cell_is_refused() -> None:
    with pytest.raises(UserError, match="no such cell: ours-nf5"):
        CliRunner().invoke(memory.main, ["--only", "ours-nf5"], catch_exceptions=False)


def test_a_folder_that_takes_no_report_is_refused_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    words = ["--shape", "tiny", "--reports", str(tmp_path / "file" / "reports")]
    with pytest.raises(UserError, match="no report can be written here"):
        CliRunner().invoke(memory.main, words, catch_exceptions=False)


def test_speed_writes_its_report(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    options = {
        "--recipe": file,
        "--responses": 2,
        "--steps": 2,
        "--warm-up": 1,
        "--equal-steps": 2,
        "--reports": tmp_path / "reports",
    }
    words = [str(word) for option in options.items() for word in option]
    done = CliRunner().invoke(
        speed.main, [*words, "--no-grid", "--no-memory"], catch_exceptions=False
    )
    assert done.exit_code == 0
    report = Path(done.stdout.strip())
    assert "Equal results" in report.read_text(encoding="utf-8")
    raw = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    assert raw["equal"]["relative_difference"] < 1e-2
    assert yaml.safe_load(file.read_text())  # untouched


def test_judges_prints_a_table_for_each_judge(recipe: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    done = CliRunner().invoke(judges.main, ["--recipe", str(file)], catch_exceptions=False)
    assert done.exit_code == 0
    titles = [line for line in done.stdout.splitlines() if line.startswith("### ")]
    assert titles == ["### refusal", "### compliance", "### similarity, ROUGE-L alone"]
    assert done.stdout.count("| refusal | 0 | 15 | 0 | 0 |") == 3
    assert done.stdout.count("harmful answers it calls harmful") == 1
