"""Units are shared by processes: none is computed twice, none is left out."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tradeoff_tools import smallest_words

from benchmarks import tradeoff
from benchmarks.tradeoff_bench import Bench
from benchmarks.tradeoff_work import claim, share_cores, wanted_units
from benchmarks.unlearning_methods import OURS, unlearning_methods
from lora_sku.errors import SourceError
from lora_sku.recipe import LossesSection, Recipe

SEED = 8888


def test_a_unit_is_one_process_s_at_a_time(tmp_path: Path) -> None:
    same, another = ((tmp_path, "ga", seed) for seed in (1, 2))
    with claim(*same) as first, claim(*same) as second, claim(*another) as other_seed:
        assert (first, second, other_seed) == (True, False, True)
    with claim(tmp_path, "ga", 1) as later:
        assert later


def test_who_waits_for_a_unit_gets_it_when_it_is_free(tmp_path: Path) -> None:
    told: list[str] = []

    def wait_for_it() -> None:
        with claim(tmp_path, "ga", 1, wait=True) as mine:
            told.append(f"waited: {mine}")

    with claim(tmp_path, "ga", 1):
        waiting = threading.Thread(target=wait_for_it)
        waiting.start()
        time.sleep(0.2)
        told.append("held")
    waiting.join(timeout=20)
    assert told == ["held", "waited: True"]


def test_seeds_of_a_method_follow_the_first_one() -> None:
    methods = unlearning_methods(LossesSection(), prompts=2, responses=2)
    some = {name: methods[name] for name in ("retain-only", OURS)}
    assert wanted_units(some, 7, 2) == [("retain-only", 7), (OURS, 7), (OURS, 8)]


def test_cores_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for jobs, threads in ((1, None), (3, "2"), (20, "1")):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        share_cores(jobs)
        assert os.environ.get("OMP_NUM_THREADS") == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # the user's own
    share_cores(2)
    assert os.environ["OMP_NUM_THREADS"] == "5"


def test_nothing_loads_torch_before_cores_are_shared() -> None:
    asked = (
        "import sys, benchmarks.tradeoff, benchmarks.tradeoff_work; print('torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


def test_a_helper_computes_what_this_process_does_not(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = smallest_words(recipe, tmp_path)
    units = tmp_path / "out" / "units"
    computed: list[str] = []
    real = Bench.run

    def slow(self: Bench, name: str, *rest: Any) -> Any:
        computed.append(name)
        deadline = time.monotonic() + 120
        while not list(units.glob("*.json")) and time.monotonic() < deadline:
            time.sleep(0.1)
        return real(self, name, *rest)

    monkeypatch.setattr(Bench, "run", slow)
    both = ("--only", "ga", "--only", "npo", "--jobs", "2")
    done = CliRunner().invoke(tradeoff.main, [*words, *both], catch_exceptions=False)
    assert len(computed) == 1  # of two: the other one is the helper's
    raw = json.loads(Path(done.stdout.strip()).with_suffix(".json").read_text(encoding="utf-8"))
    assert [unit["method"] for unit in raw["units"]] == ["ga", "npo"]
    assert all(unit["scores"] for unit in raw["units"])


def test_a_file_that_is_missing_is_told_before_anything_is_computed(
    recipe: Recipe, tmp_path: Path
) -> None:
    words = smallest_words(recipe, tmp_path)
    gone = tmp_path / "pku" / "TruthfulQA.csv"
    gone.unlink()
    with pytest.raises(SourceError, match="--data names the folder") as caught:
        CliRunner().invoke(tradeoff.main, words, catch_exceptions=False)
    assert caught.value.where == str(gone)


def test_what_a_helper_leaves_is_computed_here(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = smallest_words(recipe, tmp_path)
    order: list[str] = []
    real = Bench.run
    held = claim(tmp_path / "out", "ga", SEED)  # by one that is killed before it is done

    def run(self: Bench, name: str, *rest: Any) -> Any:
        order.append(name)
        if name == "npo":
            held.__exit__(None, None, None)
        return real(self, name, *rest)

    monkeypatch.setattr(Bench, "run", run)
    assert held.__enter__()
    both = ("--only", "ga", "--only", "npo")
    done = CliRunner().invoke(tradeoff.main, [*words, *both], catch_exceptions=False)
    assert order == ["npo", "ga"]
    assert "2 of 2 units to compute" in done.stderr
    assert "; 1 left" in done.stderr
    assert done.exit_code == 0
