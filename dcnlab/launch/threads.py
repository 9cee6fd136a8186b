"""How many threads compute: ours and the BLAS's."""

from __future__ import annotations

import os

import threadpoolctl

_limited: int | None = None


def num_threads() -> int:
    """Return how many threads run the blocks of a kernel: $DCNLAB_NUM_THREADS, or the processors this process may use.

    Raises
    ------
    ValueError
        When the variable is not a positive number.
    """
    value = os.environ.get("DCNLAB_NUM_THREADS")
    if value is None or value == "":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not value.isdecimal() or not 1 <= int(value) <= 4096:
        raise ValueError(f"DCNLAB_NUM_THREADS must be a number from 1 to 4096, got {value!r}")
    return int(value)


def limit_blas() -> None:
    """Give the BLAS as many threads as DCNLAB_NUM_THREADS says; without the variable it keeps its own number."""
    global _limited
    if not os.environ.get("DCNLAB_NUM_THREADS"):
        return
    wanted = num_threads()
    if wanted != _limited:
        threadpoolctl.threadpool_limits(limits=wanted, user_api="blas")
        _limited = wanted
