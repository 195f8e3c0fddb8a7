"""Fixtures of the data tests: tokenizers, and a writer of .jsonl files."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from data_tools import make_byte_level, make_metaspace, make_prepending
from transformers import PreTrainedTokenizerFast

from lora_sku.recipe import SourceSection


@pytest.fixture(scope="session")
def prepending() -> PreTrainedTokenizerFast:
    return make_prepending()


@pytest.fixture(scope="session")
def byte_level() -> PreTrainedTokenizerFast:
    return make_byte_level()


@pytest.fixture(scope="session")
def metaspace() -> PreTrainedTokenizerFast:
    return make_metaspace()


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., SourceSection]:
    """Write records to a .jsonl file and get the section that reads it."""

    def write(
        records: Iterable[dict[str, Any]], name: str = "data.jsonl", **keys: Any
    ) -> SourceSection:
        path = tmp_path / name
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return SourceSection(path=str(path), **{"format": "prompt-response", **keys})

    return write
