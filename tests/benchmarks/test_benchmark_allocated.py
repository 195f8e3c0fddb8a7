"""The peak of live tensors, counted by PyTorch's allocator: nothing else in it, nothing missed."""

import pytest
import torch

from benchmarks.allocated import AllocatedPeak

MIB = 2**20


def ones(mib: int) -> torch.Tensor:
    return torch.ones(mib * MIB, dtype=torch.uint8)


def test_the_peak_counts_what_is_gone_again_and_what_was_there_before() -> None:
    held = ones(3)
    with AllocatedPeak() as peak:
        before = peak.bytes
        first = ones(5)
        del first
        second = ones(4) + 1  # two of 4 MiB for a moment
        del second
    assert before >= 3 * MIB
    assert peak.bytes - before == pytest.approx(8 * MIB, abs=MIB / 4)
    assert held[0] == 1


def test_what_is_freed_of_before_is_not_taken_off_the_peak() -> None:
    held = ones(6)
    with AllocatedPeak() as peak:
        before = peak.bytes
        del held
        ones(2)
    assert peak.bytes - before == pytest.approx(2 * MIB, abs=MIB / 4)


def test_a_storage_counts_once_however_many_tensors_view_it() -> None:
    with AllocatedPeak() as alone:
        pass
    whole = ones(4)
    views = [whole[: i * MIB] for i in range(1, 5)]
    with AllocatedPeak() as peak:
        pass
    assert peak.bytes - alone.bytes == pytest.approx(4 * MIB, abs=MIB / 4)
    assert views
