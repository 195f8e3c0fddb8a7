"""How long idle OpenMP threads spin before they sleep."""

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
