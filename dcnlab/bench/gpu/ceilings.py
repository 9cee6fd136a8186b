"""What the GPU can do at best, measured by the probes of kernels/probes: the table of probes, and running them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dcnlab.arrays import as_numpy
from dcnlab.bench.gpu.device import Device
from dcnlab.bench.gpu.timing import TIMES_L2, measure
from dcnlab.launch import module

BLOCK = 256
BLOCKS_A_PROCESSOR = 8  # of 256 threads: all that a multiprocessor holds
SEGMENT, TILE = 16, 8192  # as in probes/reduce.cu and probes/shared.cu


class Scale(NamedTuple):
    """How large a probe is made.

    Attributes
    ----------
    bytes : int
        Of what is meant to be larger than the second-level cache; what is meant to lie in it takes a sixth of that.
    blocks : int
    steps : int
        Of a thread.
    """

    bytes: int
    blocks: int
    steps: int


class Run(NamedTuple):
    """A launch of a probe: grid, arguments, what it amounts to, and whether the results are right after one launch."""

    grid: int
    arguments: tuple[Any, ...]
    amount: float
    right: Callable[[], bool]


@dataclass(frozen=True)
class Probe:
    """One measurement.

    Attributes
    ----------
    name, file, kernel : str
        kernels/probes/<file>.cu and the name expression.
    unit : str
        Of the ceiling, a second.
    what : str
    make : callable
        ``make(xp, scale)`` returns the `Run`.
    """

    name: str
    file: str
    kernel: str
    unit: str
    what: str
    make: Callable[[Any, Scale], Run]

    @property
    def path(self) -> str:
        """The file, relative to the folder of the kernels."""
        return f"probes/{self.file}.cu"


def power_of_two(number: int) -> int:
    """Return the largest power of two up to a number of at least 1."""
    return 1 << (int(number).bit_length() - 1)


def _copy(xp: Any, scale: Scale) -> Run:
    count = max(scale.bytes // 2 // 16, 1)
    source = xp.arange(4 * count, dtype=xp.float32)
    target = xp.zeros_like(source)
    grid = -(-count // (4 * BLOCK))
    return Run(grid, (source, target, count), 2 * source.nbytes, lambda: bool((source == target).all()))


def _gather(xp: Any, scale: Scale) -> Run:
    sectors = 1024  # 32 KB
    numbers = np.random.default_rng(0).integers(0, 2**31, 8 * sectors, dtype=np.int32)
    tile, sums = xp.asarray(numbers), xp.zeros(scale.blocks * BLOCK, xp.int32)

    def right() -> bool:
        half = np.bitwise_xor.reduce(numbers.reshape(sectors, 2, 4), axis=2)
        thread = np.arange(sums.size)
        expected = np.zeros(sums.size, np.int32)
        for places in _draws(thread // 2, sectors, scale.steps):
            expected ^= half[places, thread % 2]
        return bool((as_numpy(sums) == expected).all())

    return Run(scale.blocks, (tile, sums, sectors, scale.steps), 16.0 * sums.size * scale.steps, right)


def _reduce(xp: Any, scale: Scale) -> Run:
    """Add to half a cache's worth of floats; every width adds one float a lane and step, or four."""
    return _reduce_by(1, xp, scale)


def _reduce_v4(xp: Any, scale: Scale) -> Run:
    return _reduce_by(4, xp, scale)


def _reduce_by(width: int, xp: Any, scale: Scale) -> Run:
    segments = power_of_two(max(scale.bytes // 6 // (4 * SEGMENT), 1))
    sums = xp.zeros(segments * SEGMENT, xp.float32)
    threads = scale.blocks * BLOCK

    def right() -> bool:
        expected = np.zeros(segments)
        for places in _draws(np.arange(threads * width // SEGMENT), segments, scale.steps):
            np.add.at(expected, places, 1)
        return bool((as_numpy(sums).reshape(segments, SEGMENT) == expected[:, None]).all())

    return Run(scale.blocks, (sums, segments, scale.steps, 1.0), float(threads * scale.steps), right)


def _shared(xp: Any, scale: Scale) -> Run:
    sums = xp.zeros((scale.blocks, TILE), xp.int32)
    value = 3  # no constant 1, for which some compilers know a short cut

    def right() -> bool:
        block = np.arange(scale.blocks)[:, None]
        expected = np.zeros((scale.blocks, TILE // SEGMENT), int)
        streams = np.arange(scale.blocks * BLOCK // SEGMENT).reshape(scale.blocks, -1)
        for places in _draws(streams, TILE // SEGMENT, scale.steps):
            np.add.at(expected, (block, places), value)
        return bool((as_numpy(sums).reshape(*expected.shape, SEGMENT) == expected[..., None]).all())

    return Run(scale.blocks, (sums, scale.steps, value), float(scale.blocks * BLOCK * scale.steps), right)


def _fma(xp: Any, scale: Scale) -> Run:
    chains = 8
    results = xp.zeros(scale.blocks * BLOCK, xp.float32)
    expected = chains * scale.steps + sum(range(chains))

    def right() -> bool:
        return bool((results == expected).all())

    return Run(scale.blocks, (results, 1.0, 1.0, scale.steps), float(results.size * chains * scale.steps), right)


def _draws(streams: np.ndarray, count: int, steps: int) -> Any:
    """Yield what kernels/include/random.cuh draws, one step after the other."""
    mask = 2**32 - 1
    state = (streams.astype(np.uint64) * 2654435761 + 12345) & mask
    for _ in range(steps):
        state = (state * 1664525 + 1013904223) & mask
        yield ((state >> np.uint64(10)) & np.uint64(count - 1)).astype(int)


PROBES = (
    Probe("copy", "copy", "copy", "B", "copy of device memory, read and written", _copy),
    Probe("gather", "gather", "gather", "B", "gather of 32-byte sectors in the L1 cache", _gather),
    Probe("reduce", "reduce", "reduce<1>", "", "float reductions, one at a time", _reduce),
    Probe("reduce_v4", "reduce", "reduce<4>", "", "float4 reductions (one of four floats counts once)", _reduce_v4),
    Probe("shared", "shared", "shared_add", "", "int32 additions in shared memory", _shared),
    Probe("fma", "fma", "fma_chains", "", "float32 multiply-adds", _fma),
)
SMALL = Scale(bytes=1 << 16, blocks=3, steps=9)  # what the results are checked on


def full_scale(device: Device) -> Scale:
    """Return the scale of a measurement: more than the caches hold, and every multiprocessor full."""
    return Scale(2 * TIMES_L2 * device.l2_bytes, BLOCKS_A_PROCESSOR * device.processors, 1000)


def is_right(probe: Probe, device: Device, scale: Scale = SMALL) -> bool:
    """Return whether a probe does what it says, on a small scale."""
    run = probe.make(device.xp, scale)
    _kernel(probe)[run.grid, BLOCK](*run.arguments)
    return run.right()


def measure_ceiling(probe: Probe, device: Device, scale: Scale | None = None) -> dict[str, Any]:
    """Return how much a probe does a second, with what the figure comes from."""
    run = probe.make(device.xp, scale or full_scale(device))
    launcher = _kernel(probe)[run.grid, BLOCK]
    timing = measure(device, [lambda: launcher(*run.arguments)])
    return {
        "per_second": run.amount / (timing.us * 1e-6),
        "unit": probe.unit,
        "what": probe.what,
        "timing": timing.record(),
    }


def _kernel(probe: Probe) -> Any:
    return module(probe.path, [probe.kernel], target="cuda")[probe.kernel]
