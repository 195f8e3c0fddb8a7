"""What the C allocator keeps for later, handed back: on a CPU it lies where tensors would.

Tensors of many sizes, made and freed, leave gaps that are as large as what a pass works on. glibc
keeps them, so a process that evaluates or trains on a CPU holds up to twice what its tensors need.
Only glibc needs to be asked, and only glibc can be.

What was handed back has to be fetched again, page by page. That is dear for a small model, whose
passes are short, and cheap for a large one, which also gains most: hence a share of the time.
"""

import ctypes
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from functools import cache

from torch import nn

# Less costs time in every layer, more lets the gaps grow.
MOST_GROWTH = 64 * 2**20
MOST_TIME = 1 / 20
# Measured on two virtual cores: 2 microseconds for a page of 4 KiB.
_SECONDS_TO_FETCH_A_BYTE = 5e-10


def release_free_memory() -> None:
    """Hand it all back now."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


def release_as_it_grows(modules: Iterable[nn.Module]) -> None:
    """Hand it back before a module's forward, if resident memory grew by MOST_GROWTH bytes.

    Looking costs a microsecond, handing back milliseconds; it is put off where it would take more
    than MOST_TIME of what the process computes.
    """
    if _malloc_trim() is None:
        return
    watch = _Watch()
    for module in modules:
        module.register_forward_pre_hook(watch.look)


class _Watch:
    def __init__(self) -> None:
        self._lowest = _resident_bytes()
        self._not_before = 0.0

    def look(self, *_: object) -> None:
        now = _resident_bytes()
        if now - self._lowest <= MOST_GROWTH:
            self._lowest = min(self._lowest, now)
        elif time.process_time() >= self._not_before:
            self._release(now)

    def _release(self, before: int) -> None:
        began = time.process_time()
        release_free_memory()
        ended = time.process_time()
        self._lowest = _resident_bytes()
        fetching = max(0, before - self._lowest) * _SECONDS_TO_FETCH_A_BYTE
        self._not_before = ended + (ended - began + fetching) / MOST_TIME


def _resident_bytes() -> int:
    pages = os.pread(_statm(), 128, 0).split()[1]
    return int(pages) * resource.getpagesize()


@cache
def _statm() -> int:
    return os.open("/proc/self/statm", os.O_RDONLY)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except AttributeError:  # another C library
        return None
    return trim
