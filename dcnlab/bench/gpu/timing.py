"""How a time is taken: many launches between two events, on memory that no cache still holds, and again a few times.

A kernel is launched at least `LAUNCHES` times between one pair of events, each time on the next of several sets of
buffers, which together are at least `TIMES_L2` times as large as the second-level cache. That is one sample; a time is
the median of `REPEATS` samples, with the smallest and the largest beside it. What takes long is repeated less often: a
sample of many launches is not worth minutes.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dcnlab.bench.gpu.device import Device

LAUNCHES = 20
MOST_LAUNCHES = 256  # a GPU's queue takes about a thousand
REPEATS, LEAST_REPEATS = 7, 3
TIMES_L2 = 3
MOST_COPIES = 2048
ROW_SECONDS = 1.0  # of device time; a sample is not longer, nor are all samples beyond the least number of them


@dataclass(frozen=True)
class Timing:
    """A time in microseconds a launch.

    Attributes
    ----------
    us, low, high : float
        Median, smallest and largest sample.
    launches, copies, repeats : int
        Launches a sample, sets of buffers, samples.
    waited : bool
        The device may have waited for the host: then the time is not that of the kernels alone.
    """

    us: float
    low: float
    high: float
    launches: int
    copies: int
    repeats: int
    waited: bool

    def record(self) -> dict[str, Any]:
        """Return it for the JSON file."""
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}


def copies_for(bytes_each: int, device: Device) -> int:
    """Return how many sets of buffers of that size the launches go round in."""
    wanted = -(-TIMES_L2 * device.l2_bytes // max(bytes_each, 1))
    fit = device.free_bytes() // 2 // max(bytes_each, 1)
    return max(1, min(wanted, fit, MOST_COPIES))


def measure(
    device: Device, calls: Sequence[Callable[[], Any]], launches: int | None = None, ahead: bool = True
) -> Timing:
    """Return the time of one of `calls`, which do the same on different memory and take turns.

    Parameters
    ----------
    device : Device
    calls : sequence of callable
    launches : int, optional
        Of a sample; by default enough to go through all calls, and `LAUNCHES` at least.
    ahead : bool
        Queue a sample before the device begins with it.
    """
    turn = itertools.cycle(calls)

    def rounds(number: int, of: int) -> list[list[Callable[[], Any]]]:
        return [list(itertools.islice(turn, of)) for _ in range(number)]

    next(turn)()  # compiles and loads what is compiled and loaded at first use
    device.synchronize()
    (one,), waited = device.seconds(rounds(1, 1), ahead)
    if one >= ROW_SECONDS:
        return Timing(1e6 * one, 1e6 * one, 1e6 * one, 1, len(calls), 1, waited)
    count = launches or min(max(LAUNCHES, len(calls)), MOST_LAUNCHES, int(ROW_SECONDS / max(one, 1e-9)))
    (first,), _ = device.seconds(rounds(1, count), ahead)  # the clocks rise, the memory is touched
    repeats = max(LEAST_REPEATS, min(REPEATS, int(ROW_SECONDS / max(first, 1e-9))))
    seconds, waited = device.seconds(rounds(repeats, count), ahead)
    each = [1e6 * s / count for s in seconds]
    return Timing(statistics.median(each), min(each), max(each), count, len(calls), repeats, waited)
