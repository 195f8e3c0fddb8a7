"""The benchmarks stand on lora-sku, never the other way round."""

from pathlib import Path

import pytest

import benchmarks
import lora_sku

HERE, PACKAGE = (Path(str(module.__file__)).parent for module in (benchmarks, lora_sku))
MODULES = sorted(HERE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(HERE)))
def test_no_module_is_long(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 300


def test_lora_sku_does_not_know_them() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert files
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "from benchmarks" not in text
        assert "import benchmarks" not in text
