"""DCNv3 on one small image, as the kernel exercises have it: the arguments, what is expected, and typical mistakes.

3x3 taps, stride 1, padding 1, dilation 1; channels last. Arrays of float32:

    input        (H, W, C)        channel c belongs to group c // (C/G)
    offset       (H, W, G, 9, 2)  pairs (x, y); taps count column by column
    mask         (H, W, G, 9)
    output       (H, W, C)

All numbers are positive but the offsets, which are multiples of 1/64: positions are exact in float32, and nothing
cancels.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dcnlab.exercises import faulty_sampling as faulty
from dcnlab.exercises.function_check import Mistake
from dcnlab.exercises.kernel_case import KernelCase
from dcnlab.ops.deformable import dcnv3, dcnv3_backward

Arguments = Mapping[str, Any]
Sample = tuple[int, int, int, int, float, float]  # output row and column, group, tap, and where it samples: y, x

TAPS = 9
SIZE = (4, 5)

COLUMNS = Mistake(
    "columns",
    "A corner at column -1 is read from the end of the row above, one at column `width` from the row below: memory has "
    "no rows. Ask for the column as well as for the row.",
)
TRUNCATED = dataclasses.replace(
    faulty.TRUNCATED,
    text="A cast to int rounds towards 0. The cell of -0.3 begins at -1, not at 0: int(floorf(y)).",
)
INTERLEAVED = dataclasses.replace(
    faulty.INTERLEAVED,
    text="You deal the channels out to the groups in turn. The channels of a group lie together: channel c belongs to "
    "group c / (channels / groups).",
)
MISTAKES = (
    Mistake("pair_swapped", "x and y are swapped in the offsets. DCNv3's pairs are (x, y): x = offset[2 * tap]."),
    Mistake(
        "row_major",
        "You count the taps row by row, as DCNv2 does. DCNv3 counts column by column: tap k stands in column k / 3 and "
        "row k % 3 of the kernel.",
    ),
    Mistake("no_grid", "The offsets move every tap from the same place: the regular grid, -1 to 1, is forgotten."),
    Mistake("corner_grid", "The grid runs from 0 to 2. Padding 1 moves it to -1 to 1: the middle tap is the pixel."),
    Mistake("no_scale", "The scale is missing: it stretches the grid and the offsets."),
    Mistake("scaled_offset", "The scale stretches the offsets only; it belongs to the grid as well."),
    Mistake("scaled_grid", "The scale stretches the grid only; it belongs to the offsets as well."),
    Mistake("x_twice", "Both coordinates use the x offset. The y offset lies one further: offset[2 * tap + 1]."),
    Mistake("no_mask", "The mask is not used: every sample is multiplied by its modulation."),
    Mistake("no_offset", "The offsets are not used."),
    Mistake("last_tap", "The last tap is missing: there are 9, from 0 to 8."),
    Mistake("first_group", "Every channel uses the taps of group 0. Each group has its own."),
    INTERLEAVED,
    faulty.SWAPPED,
    COLUMNS,
    faulty.CLAMPED,
    faulty.DROPPED,
    faulty.FENCED,
    TRUNCATED,
    faulty.MIRRORED,
    faulty.NEAREST,
)


def problem(
    rng: np.random.Generator, channels: int, groups: int, reach: float, scale: float, alone: bool
) -> dict[str, Any]:
    """Return input, offset, mask, and the numbers.

    Parameters
    ----------
    rng : numpy.random.Generator
    channels, groups : int
    reach : float
        Most that an offset moves, in pixels.
    scale : float
        Such that a multiple of 1/64 times it is exact in float32.
    alone : bool
        Every output pixel has one tap whose mask is not 0: the pixel's number, modulo 9.
    """
    height, width = SIZE
    shape = (height, width, groups, TAPS)
    mask = rng.uniform(0.1, 1, shape)
    if alone:
        only = np.arange(height * width).reshape(height, width, 1, 1) % TAPS == np.arange(TAPS)
        mask = np.where(only, mask, 0)
    return {
        "input": rng.uniform(1, 9, (height, width, channels)).round(1).astype(np.float32),
        "offset": (np.rint(64 * rng.uniform(-reach, reach, (*shape, 2))) / 64).astype(np.float32),
        "mask": mask.astype(np.float32),
        "height": height,
        "width": width,
        "channels": channels,
        "groups": groups,
        "scale": scale,
    }


def forward(arguments: Arguments) -> dict[str, np.ndarray]:
    """Return the output, (H, W, C), by `dcnlab.dcnv3`, in float64."""
    image, offset, mask = _batched(arguments, "input", "offset", "mask")
    return {"output": dcnv3(image, offset, mask, **_options(arguments), backend="numpy")[0]}


def backward(arguments: Arguments) -> dict[str, np.ndarray]:
    """Return grad_input, (H, W, C), and grad_mask, (H, W, G, 9), by `dcnlab.dcnv3_backward`, in float64."""
    shape = (*arguments["mask"].shape[:2], arguments["channels"])
    data = {"input": np.zeros(shape, np.float32), **arguments}  # the scatter does not depend on the image
    grad_output, image, offset, mask = _batched(data, "grad_output", "input", "offset", "mask")
    grads = dcnv3_backward(grad_output, image, offset, mask, **_options(arguments), backend="numpy")
    return {"grad_input": grads.input[0], "grad_mask": grads.mask[0].reshape(arguments["mask"].shape)}


def _batched(arguments: Arguments, *names: str) -> list[np.ndarray]:
    """Return arrays as float64 with a batch axis, offset and mask flat: (1, H, W, ...)."""
    arrays = [arguments[name].astype(np.float64) for name in names]
    return [array.reshape(1, *array.shape[:2], -1) for array in arrays]


def _options(arguments: Arguments) -> dict[str, Any]:
    return {"groups": arguments["groups"], "offset_scale": arguments["scale"]}


def samples(arguments: Arguments, mistakes: frozenset[str] = frozenset()) -> Iterator[Sample]:
    """Go through all samples, with some mistakes made in where they are."""
    offset, groups = arguments["offset"], arguments["groups"]
    stretch = 1.0 if "no_scale" in mistakes else arguments["scale"]
    for oy, ox, g, k in np.ndindex(*offset.shape[:3], TAPS):
        i, j = (k % 3, k // 3) if "row_major" in mistakes else (k // 3, k % 3)
        origin = 0 if "corner_grid" in mistakes else 1
        grid = np.array((0, 0) if "no_grid" in mistakes else (j - origin, i - origin))
        source = 0 if "first_group" in mistakes and groups > 1 else g
        dx, dy = (float(d) for d in offset[oy, ox, source, k])
        moved = np.array((dx, dy) if "pair_swapped" in mistakes else (dy, dx)) * ("no_offset" not in mistakes)
        if "x_twice" in mistakes:
            moved[:] = dx
        along = stretch * grid + stretch * moved
        if "scaled_offset" in mistakes:
            along = grid + stretch * moved
        elif "scaled_grid" in mistakes:
            along = stretch * grid + moved
        yield oy, ox, g, k, oy + float(along[0]), ox + float(along[1])


def corners(y: float, x: float, mistakes: frozenset[str] = frozenset()) -> list[tuple[int, int, float]]:
    """Return row, column and weight of the corners that a sample touches, with some mistakes made."""
    height, width = SIZE
    if "columns" not in mistakes:
        return [corner[:3] for corner in faulty.corners(y, x, SIZE, mistakes)]
    found = []
    y0, x0 = math.floor(y), math.floor(x)
    for row, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for column, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            place = row * width + column
            if 0 <= row < height and 0 <= place < height * width:
                found.append((*divmod(place, width), wy * wx))
    return found


def modulation(arguments: Arguments, sample: Sample, mistakes: frozenset[str] = frozenset()) -> float:
    """Return what a sample is multiplied by, with some mistakes made."""
    oy, ox, g, k = sample[:4]
    if "last_tap" in mistakes and k == TAPS - 1:
        return 0.0
    if "no_mask" in mistakes:
        return 1.0
    return float(arguments["mask"][oy, ox, 0 if "first_group" in mistakes else g, k])


def simulate_forward(mistakes: frozenset[str], arguments: Arguments) -> dict[str, np.ndarray]:
    """Return the output with some mistakes made."""
    image = arguments["input"].astype(np.float64)
    output = np.zeros_like(image)
    for sample in samples(arguments, mistakes):
        oy, ox, g, _, y, x = sample
        own = faulty.channels_of_group(g, arguments["groups"], arguments["channels"], mistakes)
        m = modulation(arguments, sample, mistakes)
        if m == 0:
            continue
        for row, column, weight in corners(y, x, mistakes):
            output[oy, ox, own] += m * weight * image[row, column, own]
    return {"output": output}


def simulate_scatter(mistakes: frozenset[str], arguments: Arguments) -> dict[str, np.ndarray]:
    """Return grad_input with some mistakes made."""
    arriving = arguments["grad_output"].astype(np.float64)
    result = np.zeros_like(arriving)
    for sample in samples(arguments, mistakes):
        oy, ox, g, _, y, x = sample
        own = faulty.channels_of_group(g, arguments["groups"], arguments["channels"], mistakes)
        m = modulation(arguments, sample, mistakes)
        if m == 0:
            continue
        for row, column, weight in corners(y, x, mistakes):
            weight = 1.0 if "no_weight" in mistakes else weight
            result[row, column, own] += m * weight * (1.0 if "no_grad" in mistakes else arriving[oy, ox, own])
    return {"grad_input": result}


def locate_output(output: str, index: tuple[int, ...], arguments: Arguments) -> str:
    """Return pixel and channel of an output, its group, and its tap if it has only one."""
    group = index[2] // (arguments["channels"] // arguments["groups"])
    where = f"output pixel {index[:2]}, channel {index[2]} (group {group})"
    taps = np.flatnonzero(arguments["mask"][index[0], index[1], group])
    if len(taps) > 1:
        return f"{where}, a sum over {len(taps)} taps"
    y, x = next(s[4:] for s in samples(arguments) if s[:4] == (*index[:2], group, taps[0]))
    return f"{where}, where only tap {taps[0]} counts, which samples at y = {y:g}, x = {x:g}"


def bytes_of_taps(arguments: Arguments) -> dict[str, int]:
    """Return the bytes of offset and mask: what is read if every element is read once."""
    return {name: int(arguments[name].nbytes) for name in ("offset", "mask")}


def arguments_of(data: Arguments, *arrays: str, **written: np.ndarray) -> dict[str, Any]:
    """Return a kernel's arguments: some arrays of a problem, those that it writes, and the numbers."""
    numbers = {name: data[name] for name in ("height", "width", "channels", "groups", "scale")}
    return {name: data[name] for name in arrays} | written | numbers


def one_thread_a_channel(title: str, arguments: Arguments, block: int) -> KernelCase:
    """Return the case in which every thread has an output channel of a pixel, and the last block some to spare."""
    outputs = math.prod(SIZE) * arguments["channels"]
    grid = -(-outputs // block)
    title = f"{title} ({described(arguments)}; {grid} x {block} threads for {outputs} outputs)"
    return KernelCase(title, grid, block, arguments, busy=outputs)


def one_block_a_pixel(title: str, data: Arguments, arguments: Arguments, block: int) -> KernelCase:
    """Return the case in which every block has a pixel, and every thread a channel of it, some none."""
    channels, taps = data["channels"], data["groups"] * TAPS
    title = f"{title} ({described(data)}; {block} threads a block for {channels} channels and {taps} taps)"
    return KernelCase(title, math.prod(SIZE), block, arguments, busy=channels, every_block=True)


def described(arguments: Arguments) -> str:
    """Return the numbers of a problem."""
    return f"C = {arguments['channels']}, G = {arguments['groups']}, scale {arguments['scale']:g}"
