"""Resident memory in two kinds: what only this process can hold, and pages of mapped files.

The kernel can drop a file's pages at any time, so a peak made of them is softer than one of
anonymous memory. Linux keeps no high-water mark of either, hence the sampling.
"""

import threading
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_KIB_PER_GIB = 2**20
SAMPLE_SECONDS = 0.005


@dataclass(frozen=True)
class Resident:
    """Resident memory in GiB.

    Attributes:
        anonymous_gib: Heap and stacks (RssAnon).
        file_gib: Pages of mapped files (RssFile), libraries included.
    """

    anonymous_gib: float
    file_gib: float


def resident() -> Resident | None:
    """What is resident now; None where there is no /proc/self/status."""
    if not _STATUS.exists():
        return None
    fields = _status()
    anonymous, file = (
        int(fields[name].split()[0]) / _KIB_PER_GIB for name in ("RssAnon", "RssFile")
    )
    return Resident(anonymous, file)


def data_bytes() -> int:
    """Address space that this process may write to and shares with none, used or not (Linux)."""
    return int(_status()["VmData"].split()[0]) * 1024


def _status() -> dict[str, str]:
    lines = _STATUS.read_text().splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


class ResidentSampler:
    """Looks every few milliseconds and keeps the highest of each kind; use as a context."""

    def __init__(self) -> None:
        self.peak = resident()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "ResidentSampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        now = resident()
        if now is None or self.peak is None:
            return
        self.peak = Resident(
            max(self.peak.anonymous_gib, now.anonymous_gib), max(self.peak.file_gib, now.file_gib)
        )
