"""What the kernels are called with: shapes as records, arrays made contiguous, a grid of threads."""

from __future__ import annotations

import math
from copy import copy
from functools import lru_cache
from typing import Any

import numpy as np

from dcnlab.arrays import Array, array_module, is_cupy, type_name
from dcnlab.compiled.rung import Launch, Problem, Rung, arithmetic
from dcnlab.compiled.rungs import candidates, kernel, pick
from dcnlab.geometry import IntOrPair, SamplingGrid, pair, sampling_grid, scaled_taps
from dcnlab.launch import Kernel, Launcher
from dcnlab.launch.arguments import address_of

CACHE_LINE = 64  # bytes
VECTOR = 16  # bytes of a kernel's widest load, whose address must be a multiple of that

_INTS = np.int32
DCNV3_SHAPE = np.dtype(
    [(name, _INTS) for name in ("batch", "height", "width", "groups", "group_width")]
    + [(name, _INTS) for name in ("out_height", "out_width", "taps")]
    + [(name, _INTS) for name in ("stride_y", "stride_x", "padding_y", "padding_x")]
    + [("offset_scale", np.float64)],
    align=True,
)
DEFORM_CONV2D_SHAPE = np.dtype(
    [(name, _INTS) for name in ("batch", "channels", "height", "width", "outputs")]
    + [(name, _INTS) for name in ("groups", "conv_groups", "taps")]
    + [(name, _INTS) for name in ("out_height", "out_width", "stride_y", "stride_x", "padding_y", "padding_x")],
    align=True,
)


class Call:
    """One operator on one set of arrays: which kernel, of which target, mode and rung.

    Attributes
    ----------
    target : {"cpu", "cuda"}
    mode, thread_order
        As in `dcnlab.launch.module`; "fast" and "forward" but for tests.
    rungs : dict
        Rungs to take instead of those in use, by operator.
    """

    def __init__(
        self, array: Array, mode: str = "fast", thread_order: Any = "forward", rungs: dict[str, str] | None = None
    ) -> None:
        self.target = "cuda" if is_cupy(array) else "cpu"
        self.mode, self.thread_order, self.rungs = mode, thread_order, rungs or {}

    def problem(
        self, dtype: Any, channels: int, count: int, images: int = 1, rows: int = 1, shape: np.ndarray | None = None
    ) -> Problem:
        """Return a problem on this call's target; `shape` is the record that the kernel gets."""
        sizes = () if shape is None else tuple(zip(shape.dtype.names or (), shape.item(), strict=True))
        return Problem(self.target, type_name(dtype), channels, count, images, rows, sizes)

    def rung(self, operator: str, problem: Problem) -> Rung:
        """Return the rung that solves a problem."""
        return pick(operator, problem, self.rungs.get(operator))

    def takes(self, operator: str, problem: Problem) -> bool:
        """Return whether there is a rung that solves a problem."""
        return bool(candidates(operator, problem, self.rungs.get(operator)))

    def with_rungs(self, **rungs: str) -> Call:
        """Return the same call with other rungs of some operators."""
        other = copy(self)
        other.rungs = {**self.rungs, **rungs}
        return other

    def launch(self, operator: str, problem: Problem, *arguments: Any, part: str | None = None) -> None:
        """Launch the kernel of the rung that solves a problem, or a part of that rung."""
        rung = self.rung(operator, problem)
        rung = rung.parts[part] if part else rung
        name, launch = _planned(rung, problem)
        _launcher(kernel(rung, name, self.target, self.mode, self.thread_order), launch)(*arguments)


# A small call spends most of its time here: what follows from a problem is kept between calls.
@lru_cache(maxsize=256)
def _planned(rung: Rung, problem: Problem) -> tuple[str, Launch]:
    return rung.instance_for(problem), rung.launch(problem)


@lru_cache(maxsize=256)
def _launcher(compiled: Kernel, launch: Launch) -> Launcher:
    return compiled[launch]


class DCNv3Arguments:
    """The arguments that all DCNv3 kernels share, from those of `dcnlab.dcnv3`.

    Attributes
    ----------
    arrays : [input, offset, mask, taps, residual], contiguous and aligned
    shape : record `DCNv3Shape` of kernels/include/dcnv3.cuh
    output_shape : (N, Ho, Wo, C)
    rows : int
        (pixel, group) pairs of one image.
    """

    def __init__(
        self,
        input: Array,
        offset: Array,
        mask: Array,
        kernel_size: IntOrPair,
        stride: IntOrPair,
        padding: IntOrPair,
        dilation: IntOrPair,
        groups: int,
        offset_scale: float,
        remove_center: bool,
    ) -> None:
        xp = array_module(input)
        n, height, width, channels = input.shape
        size = offset.shape[1:3]
        kernel, dilated = pair(kernel_size, "kernel_size", 1), pair(dilation, "dilation", 1)
        s, p = pair(stride, "stride", 1), pair(padding, "padding", 0)
        taps, residual = scaled_taps(kernel, dilated, "dcnv3", float(offset_scale), bool(remove_center))
        self.output_shape = (n, *size, channels)
        self.rows, self.group_width = size[0] * size[1] * groups, channels // groups
        refuse_too_many(max(self.rows * self.group_width, height * width))
        sizes = (n, height, width, groups, self.group_width, *size, len(taps))
        self.shape = np.array((*sizes, *s, *p, offset_scale), DCNV3_SHAPE)
        self.arrays = [aligned(array) for array in (input, offset, mask)]
        self.arrays += [xp.asarray(taps), xp.asarray(residual, dtype=arithmetic(input.dtype))]

    def problem(self, call: Call) -> Problem:
        """Return what a rung is chosen for."""
        return call.problem(self.arrays[0].dtype, self.group_width, self.rows, self.output_shape[0], shape=self.shape)


class DeformConv2dArguments:
    """The arguments that all kernels of deformable convolution share, from those of `dcnlab.deform_conv2d`.

    Attributes
    ----------
    call : Call
    grid : SamplingGrid
    shape : record `DeformConv2dShape` of kernels/include/deform_conv2d.cuh
    input, offset, weight, mask : contiguous; `mask` may be None
    taps : (K, 2) int
    conv_groups : int
    """

    def __init__(
        self,
        input: Array,
        offset: Array,
        weight: Array,
        stride: IntOrPair,
        padding: IntOrPair,
        dilation: IntOrPair,
        mask: Array | None,
        call: Call | None,
    ) -> None:
        xp, self.call = array_module(input), call or Call(input)
        self.grid = sampling_grid(offset, weight.shape[2:], stride, padding, dilation, layout="deform_conv2d")
        self.shape = deform_conv2d_shape(input, weight, self.grid, stride, padding)
        self.input, self.offset, self.weight = (xp.ascontiguousarray(array) for array in (input, offset, weight))
        self.mask = None if mask is None else xp.ascontiguousarray(mask)
        self.taps = xp.ascontiguousarray(self.grid.taps)
        self.conv_groups = input.shape[1] // weight.shape[1]

    def problem(self) -> Problem:
        """Return what the rung of the whole operator is chosen for."""
        return deform_conv2d_problem(self.call, self.shape, self.input.dtype)

    def new_output(self) -> Array:
        """Return room for the outputs, (N, O, pixels)."""
        shape = (len(self.input), len(self.weight), self.grid.pixel_count)
        return array_module(self.input).empty(shape, self.input.dtype)


def deform_conv2d_shape(
    input: Array, weight: Array, grid: SamplingGrid, stride: IntOrPair, padding: IntOrPair
) -> np.ndarray:
    """Return the record `DeformConv2dShape` of kernels/include/deform_conv2d.cuh."""
    n, channels, height, width = input.shape
    s, p = pair(stride, "stride", 1), pair(padding, "padding", 0)
    refuse_too_many(max(grid.pixel_count * max(len(weight), grid.groups), height * width))
    conv_groups = channels // weight.shape[1]
    sizes = (n, channels, height, width, len(weight), grid.groups, conv_groups, grid.tap_count, *grid.output_size)
    return np.array((*sizes, *s, *p), DEFORM_CONV2D_SHAPE)


def deform_conv2d_problem(call: Call, shape: np.ndarray, dtype: Any) -> Problem:
    """Return what the rung of the whole operator is chosen for: offset groups and all pixels of the batch's images."""
    sizes = dict(zip(shape.dtype.names or (), shape.item(), strict=True))
    count = sizes["out_height"] * sizes["out_width"] * sizes["groups"]
    return call.problem(dtype, sizes["channels"] // sizes["groups"], count, sizes["batch"], shape=shape)


def aligned_empty(xp: Any, shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Return a new array that starts on a cache line: loads of a whole register then touch one line, not two."""
    if xp is not np:
        return xp.empty(shape, dtype)  # CuPy's all do
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + CACHE_LINE, np.uint8)
    start = -address_of(room) % CACHE_LINE
    return room[start : start + size].view(dtype).reshape(shape)


def aligned(array: Array) -> Array:
    """Return the array, contiguous and where vectors can be loaded: a copy, where it is not."""
    array = array_module(array).ascontiguousarray(array)
    address = array.data.ptr if is_cupy(array) else address_of(array)
    return array if address % VECTOR == 0 else array.copy()


def refuse_too_many(values: int) -> None:
    """Refuse images for which a kernel would need more than 2^31 - 1 threads."""
    if values >= 2**31:
        raise ValueError(
            f"the kernels number the values of one image with 31 bits, this call has {values}; use backend='numpy'"
        )
