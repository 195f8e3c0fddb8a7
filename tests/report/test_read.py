"""A run directory read back: what has not happened is told, what is damaged is refused."""

from pathlib import Path

import pytest
from report_tools import evaluation, with_tasks, write, write_run

from lora_sku.errors import RecipeError, RunDirectoryError
from lora_sku.report.read import read_run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def test_everything_of_a_finished_run_is_read(folder: Path) -> None:
    run = read_run(folder)
    assert run.name == "run"
    assert run.missing == ()
    assert run.evaluation is not None
    assert run.evaluation.gain == 0.75
    assert run.evaluation.cost == 1.25
    assert run.sweep is not None
    assert run.sweep.choice.strength == 2.0
    assert len(run.steps) == 100
    assert [g.prompt for g in run.generations] == ["forget-prompt", "normal-prompt"]
    assert run.generations[0].verdicts["compliance"]["base"].label == "harmful"


def test_stages_that_have_not_happened_are_told(folder: Path) -> None:
    for name in ("metrics.jsonl", "sweep.json", "evaluation.json", "generations.jsonl"):
        (folder / name).unlink()
    (folder / "adapter").rmdir()
    told = " ".join(read_run(folder).missing)
    for word in ("acquire", "sweep", "negate", "evaluation"):
        assert word in told


def test_a_judge_that_has_not_spoken_is_told(folder: Path) -> None:
    write(folder / "evaluation.json", evaluation() | {"judges": {}})
    (told,) = read_run(folder).missing
    assert "compliance" in told


@pytest.mark.parametrize(
    "name", ["generations.jsonl", "metrics.jsonl", "memory.json", "sweep.json"]
)
def test_evidence_that_is_gone_after_the_evaluation_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(RunDirectoryError, match=name):
        read_run(folder)


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_a_run_is_refused(tmp_path: Path, exists: bool) -> None:
    if exists:
        (tmp_path / "other").mkdir()
    with pytest.raises(RunDirectoryError, match="holds no run" if exists else "no such folder"):
        read_run(tmp_path / "other")


def test_damaged_json_is_told_with_file_and_line(folder: Path) -> None:
    path = folder / "evaluation.json"
    path.write_text('{\n  "base": {},\n  oops\n}\n')
    with pytest.raises(RunDirectoryError, match="not valid JSON") as caught:
        read_run(folder)
    assert caught.value.where == f"{path}:3"


def test_a_damaged_line_is_told_with_its_number(folder: Path) -> None:
    path = folder / "generations.jsonl"
    path.write_text(path.read_text() + '{"split": "forget_unseen"}\n')
    with pytest.raises(RunDirectoryError, match="prompt") as caught:
        read_run(folder)
    assert caught.value.where == f"{path}:3"


def test_half_a_last_line_of_a_killed_run_is_left_out(folder: Path) -> None:
    path = folder / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 101, "gui')
    assert len(read_run(folder).steps) == 100


def test_a_wrong_key_is_named(folder: Path) -> None:
    value = evaluation()
    value["base"]["retain_kl"] = "much"
    write(folder / "evaluation.json", value)
    with pytest.raises(RunDirectoryError, match=r"base\.retain_kl"):
        read_run(folder)


def test_bytes_that_are_no_text_are_refused(folder: Path) -> None:
    (folder / "memory.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunDirectoryError, match="cannot be read"):
        read_run(folder)


def test_a_damaged_recipe_is_refused(folder: Path) -> None:
    (folder / "recipe.yaml").write_text("base_model: [")
    with pytest.raises(RecipeError):
        read_run(folder)


def test_tasks_that_were_not_run_yet_are_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "asked", evaluation={"lm_eval": ["colours"]})
    (told,) = read_run(folder).missing
    assert "lm-evaluation-harness" in told
    assert read_run(with_tasks(folder)).missing == ()
