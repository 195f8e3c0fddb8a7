"""What the CPU libraries are told before they are loaded: idle threads, compiled kernels."""

import os

# About 0.1 ms. A step has thousands of short parallel regions: threads that sleep between them at
# once (OMP_WAIT_POLICY=PASSIVE) took 1.3 times as long on two cores, and libgomp's own 300,000
# rounds gained nothing more.
SPINS = "10000"


def wait_briefly() -> None:
    """Let them sleep soon, unless the user said otherwise. Call it before torch is loaded.

    torch and bitsandbytes each bring a pool of threads; idle ones that spin for long steal the
    cores from the other pool and from other processes.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


# Texts differ in length, so that every pass compiles products of its own shape, at about a quarter
# of a MiB each. One pass needs a few dozen; oneDNN's own bound is 1,024.
KERNELS = "100"


def keep_few_kernels() -> None:
    """Let oneDNN keep those of a step, unless the user said otherwise. Call it before torch loads.

    A demo's step took the same time, and 14 steps grew by 0.23 GiB instead of 0.44.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KERNELS)
