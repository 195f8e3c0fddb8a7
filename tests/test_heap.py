"""The allocator's gaps: seen to grow, handed back, and looked for at every forward pass."""

import sys
from collections.abc import Iterator

import psutil
import pytest
import torch
from torch import Tensor, nn

from lora_sku import heap
from lora_sku.heap import release_as_it_grows, release_free_memory

MIB = 2**20
PIECE = torch.Size([100_000])  # bytes: small enough to come from the heap

glibc = pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")


@pytest.fixture(autouse=True)
def leave_no_gaps() -> Iterator[None]:
    yield
    release_free_memory()  # or a later test's tensors would lie in them


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


def leave_gaps() -> list[Tensor]:
    """About 90 MiB of free memory between tensors that stay."""
    pieces = [torch.ones(PIECE, dtype=torch.uint8) for _ in range(1000)]
    return pieces[::20]


@glibc
def test_gaps_are_handed_back() -> None:
    release_free_memory()
    kept = leave_gaps()
    before = resident()
    release_free_memory()
    assert before - resident() > 50 * MIB
    assert all(piece.all() for piece in kept)


@glibc
def test_a_forward_pass_hands_back_what_grew_before_it() -> None:
    layer = nn.Linear(4, 4)
    release_free_memory()
    release_as_it_grows([layer])
    kept = leave_gaps()
    before = resident()
    layer(torch.ones(1, 4))
    assert before - resident() > 50 * MIB
    assert kept


@glibc
def test_little_growth_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(heap, "release_free_memory", lambda: asked.append(1))
    monkeypatch.setattr(heap, "_resident_bytes", lambda: sizes.pop(0))
    layers = [nn.Linear(4, 4), nn.Linear(4, 4)]
    sizes = [500 * MIB, 550 * MIB, 570 * MIB, 530 * MIB]  # at first, two looks, after a release
    monkeypatch.setattr(heap, "MOST_TIME", 1e9)  # no waiting
    release_as_it_grows(layers)
    layers[0](torch.ones(1, 4))
    assert not asked
    layers[1](torch.ones(1, 4))
    assert len(asked) == 1
    sizes += [590 * MIB, 480 * MIB, 545 * MIB, 480 * MIB]
    for layer in (layers[0], layers[1], layers[0]):
        layer(torch.ones(1, 4))
    assert len(asked) == 2  # 590 is near 530; 545 is far from the lowest since, 480
    assert not sizes


@glibc
def test_it_takes_a_share_of_the_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    monkeypatch.setattr(heap, "release_free_memory", lambda: asked.append(now[0]))
    monkeypatch.setattr(heap, "_resident_bytes", lambda: sizes.pop(0))
    monkeypatch.setattr("time.process_time", lambda: now[0])
    layer, now = nn.Linear(4, 4), [100.0]
    sizes = [500 * MIB, 900 * MIB, 500 * MIB]  # at first, a look, after its release
    release_as_it_grows([layer])
    layer(torch.ones(1, 4))
    # 400 MiB take about 0.2 s to fetch again: no more of it for 4 s.
    for now[0] in (100.1, 103.9):
        sizes.append(900 * MIB)
        layer(torch.ones(1, 4))
    assert asked == [100.0]
    now[0] = 104.5
    sizes += [900 * MIB, 500 * MIB]
    layer(torch.ones(1, 4))
    assert asked == [100.0, 104.5]


def test_another_c_library_has_nothing_to_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_malloc_trim", lambda: None)
    layer = nn.Linear(4, 4)
    release_as_it_grows([layer])
    release_free_memory()
    assert not layer._forward_pre_hooks
