"""Options that several commands share."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lora_sku import pipeline
from lora_sku.cli import main
from lora_sku.cli_options import MemorySize, refuse_existing, resumable
from lora_sku.errors import StorageError

GIB = 2**30


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("8GiB", 8 * GIB),
        ("8", 8 * GIB),
        ("7.5 gib", 7.5 * GIB),
        ("8192MiB", 8 * GIB),
        ("8GB", 8 * 10**9),
        ("500mb", 5 * 10**8),
        (123, 123),
    ],
)
def test_sizes_are_read_as_people_write_them(written: str | int, expected: float) -> None:
    assert MemorySize().convert(written, None, None) == expected


@pytest.mark.parametrize("written", ["much", "-8GiB", "8 bananas", ""])
def test_what_is_no_size_is_refused(written: str) -> None:
    with pytest.raises(click.BadParameter, match="not a size such as 8GiB"):
        MemorySize().convert(written, None, None)


def test_a_file_is_replaced_only_on_demand_and_a_folder_never(tmp_path: Path) -> None:
    file = tmp_path / "sweep.json"
    refuse_existing(file, overwrite=False)
    file.touch()
    refuse_existing(file, overwrite=True)
    with pytest.raises(StorageError, match="already exists"):
        refuse_existing(file, overwrite=False)
    with pytest.raises(StorageError, match="is a folder"):
        refuse_existing(tmp_path, overwrite=True)


def test_a_stopped_run_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop() -> None:
        with pytest.raises(SystemExit) as stopped, resumable("acquire", tmp_path):
            raise KeyboardInterrupt
        assert stopped.value.code == 130

    stop()
    assert capsys.readouterr().err == "Stopped. Nothing was kept.\n"
    (tmp_path / "recipe.yaml").touch()
    stop()
    command = f"lora-sku acquire {tmp_path / 'recipe.yaml'} --resume"
    assert capsys.readouterr().err == f"Stopped. Go on with: {command}\n"


@pytest.mark.parametrize("command", ["run", "acquire"])
def test_both_long_commands_are_resumable(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, command, interrupted)
    (tmp_path / "recipe.yaml").touch()
    result = CliRunner().invoke(main, [command, "smollm2-135m", "--output", str(tmp_path)])
    assert result.exit_code == 130
    assert f"lora-sku {command} {tmp_path / 'recipe.yaml'} --resume" in result.output
