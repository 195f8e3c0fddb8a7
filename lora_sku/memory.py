"""The one ruler for memory: peak allocated and reserved on CUDA, peak resident on CPU, in GiB."""

import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch

GIB = 2**30

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Peak:
    """What a stretch of work needed at its highest, in GiB.

    Attributes:
        resident_gib: Peak resident memory of the process.
        allocated_gib: Peak bytes of live CUDA tensors; None without CUDA.
        reserved_gib: Peak bytes the CUDA allocator took from the card; None without CUDA.
    """

    resident_gib: float
    allocated_gib: float | None = None
    reserved_gib: float | None = None

    @property
    def working_gib(self) -> float:
        """The figure that must fit: reserved on CUDA, resident on CPU."""
        return self.resident_gib if self.reserved_gib is None else self.reserved_gib

    def as_dict(self) -> dict[str, float | None]:
        """The same figures for JSON, rounded to 1 MiB."""
        return {key: None if v is None else round(v, 3) for key, v in asdict(self).items()}


def memory_in_use_gib(device: torch.device) -> float:
    """What is in use now, in GiB: live tensors on CUDA, the process's resident memory on CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / GIB
    return float(psutil.Process().memory_info().rss) / GIB


class PeakMeter:
    """Measures the peak between `start` and `read`.

    On Linux the kernel's high-water mark is reset at the start, so that a stage's figure is its
    own. Where the mark can't be reset, the figure is the peak since the process began.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def start(self) -> None:
        """Begin a stretch."""
        if _CLEAR_REFS.exists():
            _CLEAR_REFS.write_text("5")  # 5 resets VmHWM, see proc(5)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def read(self) -> Peak:
        """Peak since `start`."""
        resident = _peak_resident_bytes() / GIB
        if self._device.type != "cuda":
            return Peak(resident)
        return Peak(
            resident,
            allocated_gib=torch.cuda.max_memory_allocated(self._device) / GIB,
            reserved_gib=torch.cuda.max_memory_reserved(self._device) / GIB,
        )


def _peak_resident_bytes() -> int:
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # POSIX only, so not at the top

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
