"""lora-sku report and lora-sku compare."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from report_tools import write_run

from lora_sku.cli import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def call(*words: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


def test_report_writes_the_page_again_and_again(folder: Path) -> None:
    for _ in range(2):
        assert call("report", folder) == (0, f"Report: {folder / 'report.html'}\n", "")
    assert (folder / "report.html").is_file()


def test_a_named_file_is_replaced_only_if_asked(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    assert call("report", folder, "--output", target)[0] == 0
    assert call("report", folder, "--output", target)[0] == 2
    assert call("report", folder, "--output", target, "--overwrite")[0] == 0


@pytest.mark.parametrize(("command", "runs"), [("report", 1), ("compare", 2)])
def test_a_folder_without_a_run_is_one_paragraph(command: str, runs: int, tmp_path: Path) -> None:
    code, out, err = call(command, *[tmp_path] * runs)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {tmp_path}: holds no run")


def test_compare_prints_a_table_and_writes_a_page(folder: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "[red]other", training={"max_steps": 7})
    target = tmp_path / "compare.html"
    code, out, _ = call("compare", folder, other, "--output", target)
    assert code == 0
    assert "[red]other" in out
    assert "training.max_steps" in out
    assert "Gain on unseen harmful answers" in out
    assert target.is_file()
    assert call("compare", folder, other, "--output", target)[0] == 2
    assert "No setting differs" not in out


def test_compare_says_that_nothing_differs(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "compare.html"
    code, out, _ = call("compare", folder, folder, "--output", target)
    assert code == 0
    assert "No setting differs" in out


def test_compare_looks_at_its_runs_before_its_output(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "compare.html").touch()
    code, _, err = call("compare", folder, "--output", tmp_path / "compare.html")
    assert code == 2
    assert "nothing to compare" in err
