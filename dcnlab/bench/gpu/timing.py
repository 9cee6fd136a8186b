"""How a time is taken: many launches between two events, on memory that no cache still holds, and again a few times.

A kernel is launched at least `LAUNCHES` times between one pair of events, each time on the next of several sets of
buffers, which together are at least `TIMES_L2` times as large as the second-level cache. That is one sample; a time is
the median of `REPEATS` samples, with the smallest and the largest beside it.
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
ROW_SECONDS = 1.0  # of device time for one row, before it is repeated less often


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
    count = launches or min(max(LAUNCHES, len(calls)), MOST_LAUNCHES)
    turn = itertools.cycle(calls)

    def rounds(number: int) -> list[list[Callable[[], Any]]]:
        return [list(itertools.islice(turn, count)) for _ in range(number)]

    (first,), _ = device.seconds(rounds(1), ahead)  # compiles, loads, and says how often is enough
    repeats = max(LEAST_REPEATS, min(REPEATS, int(ROW_SECONDS / max(first, 1e-9))))
    seconds, waited = device.seconds(rounds(repeats), ahead)
    each = [1e6 * s / count for s in seconds]
    return Timing(statistics.median(each), min(each), max(each), count, len(calls), repeats, waited)
