"""Own memory and mapped files are told apart."""

import mmap
from pathlib import Path

import pytest
import torch

from benchmarks.resident import ResidentSampler, resident

MIB = 2**20
pytestmark = pytest.mark.skipif(resident() is None, reason="no /proc/self/status here")


def test_what_is_allocated_is_anonymous_and_is_seen_after_it_is_gone() -> None:
    before = resident()
    with ResidentSampler() as sampler:
        torch.ones(64 * MIB, dtype=torch.uint8)  # and gone
    assert before is not None
    assert sampler.peak is not None
    gained = sampler.peak.anonymous_gib - before.anonymous_gib
    assert gained * 1024 == pytest.approx(64, abs=16)


def test_what_is_mapped_counts_as_file(tmp_path: Path) -> None:
    file = tmp_path / "mapped"
    file.write_bytes(b"x" * 32 * MIB)
    before = resident()
    with (
        file.open("rb") as handle,
        mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as pages,
    ):
        assert pages[:: mmap.PAGESIZE]
        now = resident()
    assert before is not None
    assert now is not None
    assert (now.file_gib - before.file_gib) * 1024 == pytest.approx(32, abs=8)
