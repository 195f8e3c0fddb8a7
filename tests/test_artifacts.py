"""The run directory."""

import json
from pathlib import Path

import pytest
from run_tools import tree

from lora_sku.artifacts import RunDirectory
from lora_sku.errors import StorageError


def fill(directory: RunDirectory) -> None:
    """Everything a run may ever have in its folder."""
    for folder in (
        directory.checkpoints / "step-000002",
        directory.trackers,
        directory.harmful_adapter,
        directory.adapter,
    ):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    for file in (
        directory.recipe,
        directory.environment,
        directory.metrics,
        directory.memory,
        directory.evaluation,
        directory.generations,
    ):
        file.touch()


def test_an_empty_or_missing_folder_may_be_used_and_is_not_made_yet(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.check(resume=False, overwrite=False)
    assert not directory.path.exists()
    directory.path.mkdir()
    (directory.path / "notes.txt").touch()
    directory.check(resume=False, overwrite=False)


@pytest.mark.parametrize(
    "name", [name for name in vars(RunDirectory(Path())) if name not in ("path",)]
)
def test_anything_of_a_run_is_a_run(tmp_path: Path, name: str) -> None:
    directory = RunDirectory(tmp_path)
    assert not directory.holds_a_run()
    getattr(directory, name).mkdir()
    assert directory.holds_a_run()
    with pytest.raises(StorageError, match="already here") as caught:
        directory.check(resume=False, overwrite=False)
    assert caught.value.where == str(tmp_path)
    directory.check(resume=False, overwrite=True)
    if name != "recipe":
        with pytest.raises(StorageError, match="no run to resume"):
            directory.check(resume=True, overwrite=False)


def test_clearing_removes_all_of_a_run_and_nothing_else(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "deep" / "run")
    directory.clear()
    fill(directory)
    (directory.path / ".adapter.abc").mkdir()
    (directory.path / ".metrics.jsonl.abc").touch()
    (directory.path / "notes.txt").touch()
    directory.clear()
    assert [path.name for path in directory.path.iterdir()] == ["notes.txt"]


def test_a_file_in_the_place_of_the_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(StorageError, match="a file stands in the way"):
        RunDirectory(tmp_path / "run").clear()


@pytest.mark.parametrize("keep", [True, False])
def test_harmful_weights_are_removed(tmp_path: Path, keep: bool) -> None:
    directory = RunDirectory(tmp_path)
    fill(directory)
    (tmp_path / ".harmful-adapter.x").mkdir()
    (tmp_path / ".harmful-adapter.x" / "half").touch()
    directory.remove_harmful_weights(keep_adapter=keep)
    assert not directory.checkpoints.exists()
    assert not (tmp_path / ".harmful-adapter.x").exists()
    assert directory.harmful_adapter.exists() == keep
    assert directory.adapter.exists()
    assert len(tree(tmp_path)) == 8 + keep
    directory.remove_harmful_weights(keep_adapter=keep)  # nothing left to remove is fine


def test_the_log_forgets_steps_that_come_again_and_half_a_line(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    with directory.metrics_log(keep_steps=0) as log:
        for step in (1, 2, 3):
            log.write(json.dumps({"step": step}) + "\n")
        log.write('{"step": 2')
    with directory.metrics_log(keep_steps=2) as log:
        log.write(json.dumps({"step": 3, "again": True}) + "\n")
    lines = [json.loads(line) for line in directory.metrics.read_text().splitlines()]
    assert lines == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]
    with directory.metrics_log(keep_steps=0):
        assert directory.metrics.read_text() == ""


def test_generations_are_a_line_each_in_any_language(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    rows = [{"prompt": "Où?", "base": "two\nlines"}, {"prompt": "雪", "base": ""}]
    directory.write_generations(rows)
    text = directory.generations.read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == rows
    assert "雪" in text
