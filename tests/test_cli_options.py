"""Options that several commands share."""

from pathlib import Path

import click
import pytest

from lora_sku.cli_options import MemorySize, refuse_existing
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
