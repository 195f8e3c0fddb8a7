"""The one ruler for memory."""

import resource
import sys
from pathlib import Path

import psutil
import pytest
import torch

from lora_sku import memory
from lora_sku.memory import GIB, Peak, PeakMeter, memory_in_use_gib

CPU = torch.device("cpu")
EIGHTH_GIB = torch.Size([GIB // 8 // 4])  # of float32

resettable = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux can reset the high-water mark"
)


@resettable
def test_a_peak_that_is_gone_again_is_still_seen() -> None:
    meter = PeakMeter(CPU)
    meter.start()
    before = meter.read().resident_gib
    torch.ones(EIGHTH_GIB)
    assert meter.read().resident_gib - before == pytest.approx(0.125, abs=0.01)


@resettable
def test_a_stretch_does_not_see_the_peak_of_the_one_before() -> None:
    meter = PeakMeter(CPU)
    meter.start()
    torch.ones(EIGHTH_GIB)
    first = meter.read().resident_gib
    meter.start()
    assert first - meter.read().resident_gib > 0.1


def test_a_cpu_peak_has_no_cuda_figures_and_resident_must_fit() -> None:
    peak = PeakMeter(CPU).read()
    assert peak.allocated_gib is None
    assert peak.reserved_gib is None
    assert peak.working_gib == peak.resident_gib > 0.05


def test_on_cuda_what_was_reserved_must_fit() -> None:
    assert Peak(9.0, allocated_gib=2.0, reserved_gib=3.0).working_gib == 3.0


def test_cuda_figures_come_from_the_allocators_own_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    reset: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2 * GIB)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: GIB)
    card = torch.device("cuda", 1)
    meter = PeakMeter(card)
    meter.start()
    peak = meter.read()
    assert reset == [card]
    assert (peak.allocated_gib, peak.reserved_gib) == (2.0, 3.0)
    assert memory_in_use_gib(card) == 1.0


def test_figures_for_json_are_rounded_and_keep_what_is_missing() -> None:
    assert Peak(1.23456).as_dict() == {
        "resident_gib": 1.235,
        "allocated_gib": None,
        "reserved_gib": None,
    }


def test_memory_in_use_on_cpu_is_the_process_resident_memory() -> None:
    held = torch.ones(EIGHTH_GIB)
    in_use = memory_in_use_gib(CPU)
    assert in_use == pytest.approx(psutil.Process().memory_info().rss / GIB, abs=0.01)
    del held
    assert in_use - memory_in_use_gib(CPU) == pytest.approx(0.125, abs=0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_without_proc_the_peak_is_the_whole_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, unit: int
) -> None:
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "none")
    monkeypatch.setattr(sys, "platform", platform)
    meter = PeakMeter(CPU)
    meter.start()
    expected = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB
    assert meter.read().resident_gib == pytest.approx(expected, rel=0.01)
