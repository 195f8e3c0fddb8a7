"""Where a benchmark ran and with what."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from lora_sku.environment import PACKAGES, package_version
from lora_sku.memory import GIB

_CPU_INFO = Path("/proc/cpuinfo")
# Whatever of these is set changes what an allocator keeps, or how many threads work.
_SETTINGS = (
    *("LD_PRELOAD", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "PYTORCH_CUDA_ALLOC_CONF"),
    *("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"),
)


def describe_machine() -> dict[str, str]:
    """Name -> value, for the report."""
    cuda = torch.cuda.is_available()
    threads = f"{torch.get_num_threads()} threads of torch"
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "processor": f"{_processor()}, {psutil.cpu_count()} logical cores, {threads}",
        "memory": f"{psutil.virtual_memory().total / GIB:.1f} GiB",
        "allocator": "PyTorch's caching CUDA allocator" if cuda else _cpu_allocator(),
        "settings": ", ".join(f"{n}={os.environ[n]}" for n in _SETTINGS if n in os.environ)
        or "none",
        "platform": f"{_platform()}, Python {platform.python_version()}",
        "lora-sku": package_version(),
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }


def _platform() -> str:
    """The system and its version; whose build of the kernel it is tells nobody anything."""
    kernel = platform.release().partition("-")[0]
    return f"{platform.system()} {kernel}, {platform.machine()}"


def _processor() -> str:
    if _CPU_INFO.exists():
        for line in _CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpu_allocator() -> str:
    preloaded = os.environ.get("LD_PRELOAD")
    if preloaded:
        return f"preloaded: {preloaded}"
    return f"malloc of {' '.join(platform.libc_ver()).strip() or 'the C library'}"
