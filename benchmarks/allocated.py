"""Peak bytes of live tensors on a CPU, by PyTorch's own allocator: what a plan of tensors predicts.

Resident memory also holds libraries, the allocator's gaps and what kernels take for themselves, so
it tells little of whether a plan counts the right tensors.
"""

import gc
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


class AllocatedPeak:
    """Counts between entering and leaving; use as a context, once.

    Attributes:
        bytes: The most that live tensors held, those that were there before included.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._profile: Any = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def __enter__(self) -> "AllocatedPeak":
        self.bytes = _live_bytes()
        self._profile.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._profile.__exit__(*error)
        events = self._profile.profiler.kineto_results.events()
        changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
        current = peak = 0
        for _, change in changes:
            current += change
            peak = max(peak, current)
        self.bytes += peak


def _live_bytes() -> int:
    """Of all tensors that Python can reach, mapped files included, each storage once."""
    gc.collect()
    storages = [o.untyped_storage() for o in gc.get_objects() if isinstance(o, torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
