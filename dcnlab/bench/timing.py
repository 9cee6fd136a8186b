"""Timing that holds on a noisy machine: contenders take turns, and ratios are taken round by round."""

from __future__ import annotations

import datetime
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dcnlab.info import version


def interleaved(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Return seconds of every contender in every round, after one round of warm-up.

    In a round each contender runs once, so that a slow spell of the machine falls on all of them, and each finds the
    caches as the one before left them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: list[float], peer: list[float]) -> float:
    """Return the median over the rounds of seconds / peer's seconds."""
    return statistics.median(a / b for a, b in zip(seconds, peer, strict=True))


def milliseconds(seconds: list[float]) -> float:
    """Return the median in ms."""
    return 1e3 * statistics.median(seconds)


def machine() -> dict[str, Any]:
    """Return what the figures were measured on, and when."""
    from threadpoolctl import threadpool_info

    blas = [f"{p.get('internal_api')} {p.get('version')} ({p.get('architecture')})" for p in threadpool_info()]
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": _cpu(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "scipy": version("scipy"),
        "blas": sorted(set(blas)),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
