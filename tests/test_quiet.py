"""Other libraries' progress bars are off, each in a process of its own: tqdm reads this once."""

import os
import subprocess
import sys

import pytest

COUNT = "from tqdm.auto import tqdm; print(sum(tqdm(range(3))))"


def told(code: str) -> tuple[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip(), done.stderr


def test_a_bar_is_drawn_where_nothing_was_silenced() -> None:
    counted, drawn = told(COUNT)
    assert counted == "3"
    assert "3/3" in drawn


@pytest.mark.parametrize("name", ["quiet_models", "quiet_libraries"])
def test_no_bar_is_drawn_of_work_that_libraries_do(name: str) -> None:
    counted, drawn = told(f"from lora_sku.quiet import {name}; {name}(); {COUNT}")
    assert counted == "3"
    assert "3/3" not in drawn
