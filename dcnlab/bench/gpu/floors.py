"""What a problem takes at least: its bytes, its gathers and its arithmetic, over what the GPU can do at best.

A floor is a time that no kernel can beat, if it does the work that the formula counts. The largest of the three is the
floor of the problem; how close a kernel comes says whether there is anything left to gain, and where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

FLOORS = ("hbm", "l1", "issue")
CORNERS = 4
# Multiply-adds of a tap and channel: forward one a corner; backward one a corner for the dot products with what
# arrives, one a corner for what is scattered, and one for the product with the modulation. And of a tap and group: its
# position, cell and weights, and their gradients.
FORWARD_FMA, BACKWARD_FMA = CORNERS, 2 * CORNERS + 1
FORWARD_TAP_FMA, BACKWARD_TAP_FMA = 15, 30


@dataclass(frozen=True)
class Work:
    """What has to be done, whatever the kernel.

    Attributes
    ----------
    bytes : float
        Arguments and results, each once.
    l1_bytes : float
        Gathered from the image: four corners of each tap and channel.
    instructions : float
        Multiply-adds, two halves at a time in half precision.
    reductions : float
        Of one float, where every corner's gradient is scattered by itself. No floor: a kernel can collect first.
    """

    bytes: float
    l1_bytes: float = 0.0
    instructions: float = 0.0
    reductions: float = 0.0


@dataclass(frozen=True)
class DCNv3Size:
    """Sizes of a DCNv3 problem; `in_pixels` and `out_pixels` of the whole batch."""

    in_pixels: int
    out_pixels: int
    channels: int
    groups: int
    taps: int = 9


def dcnv3_forward(size: DCNv3Size, itemsize: int) -> Work:
    """Return the work of the forward pass; at stride 1 with 9 taps (2C + 27G) b bytes and 36 C b gathered a pixel."""
    per_tap = 3 * size.groups * size.taps  # offset (x, y) and modulation
    values = size.in_pixels * size.channels + size.out_pixels * (size.channels + per_tap)
    samples = size.out_pixels * size.taps * size.channels
    return Work(
        bytes=values * itemsize,
        l1_bytes=CORNERS * samples * itemsize,
        instructions=FORWARD_FMA * samples / _at_a_time(itemsize)
        + FORWARD_TAP_FMA * size.out_pixels * size.taps * size.groups,
    )


def dcnv3_backward(size: DCNv3Size, itemsize: int) -> Work:
    """Return the work of the backward pass; at stride 1 with 9 taps (3C + 54G) b bytes a pixel."""
    per_tap = 3 * size.groups * size.taps
    values = 2 * size.in_pixels * size.channels + size.out_pixels * (size.channels + 2 * per_tap)
    samples = size.out_pixels * size.taps * size.channels
    return Work(
        bytes=values * itemsize,
        l1_bytes=CORNERS * samples * itemsize,
        instructions=BACKWARD_FMA * samples / _at_a_time(itemsize)
        + BACKWARD_TAP_FMA * size.out_pixels * size.taps * size.groups,
        reductions=CORNERS * samples,
    )


def _at_a_time(itemsize: int) -> int:
    """Return how many channels one instruction works on: a pair of halves, else one."""
    return 2 if itemsize == 2 else 1


def floors(work: Work, ceilings: Mapping[str, float]) -> dict[str, float]:
    """Return the floors in microseconds, by name; those that the work does not have are left out.

    Parameters
    ----------
    work : Work
    ceilings : mapping
        What the GPU does a second: "copy" and "gather" in bytes, "fma" in instructions (of one thread).
    """
    each = {
        "hbm": work.bytes / ceilings["copy"],
        "l1": work.l1_bytes / ceilings["gather"],
        "issue": work.instructions / ceilings["fma"],
    }
    return {name: 1e6 * seconds for name, seconds in each.items() if seconds > 0}


def scatter_us(work: Work, ceilings: Mapping[str, float]) -> float | None:
    """Return how long the reductions take if every corner is scattered by itself, four floats at a time."""
    return 1e6 * work.reductions / (4 * ceilings["reduce_v4"]) if work.reductions else None
