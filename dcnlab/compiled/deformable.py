"""DCNv1, DCNv2 and DCNv3 by kernels; signatures and results as in `dcnlab.reference.deformable`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dcnlab.arrays import Array, array_module, blocks
from dcnlab.compiled.activation import softmax
from dcnlab.compiled.calls import (
    Call,
    DCNv3Arguments,
    aligned,
    aligned_empty,
    deform_conv2d_problem,
    deform_conv2d_shape,
)
from dcnlab.compiled.fused import backward_fused, forward_fused
from dcnlab.compiled.rung import Problem, arithmetic
from dcnlab.geometry import IntOrPair, SamplingGrid, sampling_grid
from dcnlab.launch import limit_blas
from dcnlab.reference.combine import (
    column_gradient,
    combine,
    transposed_matrix,
    weight_from_matrix,
    weight_gradient,
    weight_matrix,
)
from dcnlab.reference.deformable import DCNv3Grads, DeformConv2dGrads

# Workspace of the columns of one matrix product.
COLUMN_BYTES = 4 * 2**20
LEAST_PIXELS = 448  # BLAS is slow on fewer rows than about that


def dcnv3(
    input: Array,
    offset: Array,
    mask: Array,
    kernel_size: IntOrPair = 3,
    stride: IntOrPair = 1,
    padding: IntOrPair = 1,
    dilation: IntOrPair = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    call: Call | None = None,
) -> Array:
    """Return DCNv3 of NHWC `input`; arguments as in `dcnlab.dcnv3`, not checked here."""
    xp, call = array_module(input), call or Call(input)
    a = DCNv3Arguments(input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center)
    output = xp.empty(a.output_shape, input.dtype)
    if output.size:
        call.launch("dcnv3_forward", a.problem(call), *a.arrays, output, a.shape)
    return output


def dcnv3_of_logits(
    input: Array,
    offset: Array,
    logits: Array,
    kernel_size: IntOrPair = 3,
    stride: IntOrPair = 1,
    padding: IntOrPair = 1,
    dilation: IntOrPair = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    call: Call | None = None,
) -> Array:
    """Return DCNv3 with the softmax of `logits` over the taps as its modulation.

    One kernel does both where a preferred rung can, and the modulation never exists in memory; elsewhere softmax goes
    first.
    """
    xp, call = array_module(input), call or Call(input)
    geometry = (kernel_size, stride, padding, dilation, groups, offset_scale, remove_center)
    a = DCNv3Arguments(input, offset, logits, *geometry)
    problem = replace(a.problem(call), of_logits=True)
    if not call.takes("dcnv3_forward", problem):
        taps = logits.shape[-1] // groups
        mask = softmax(logits.reshape(*logits.shape[:-1], groups, taps), call=call).reshape(logits.shape)
        return dcnv3(input, offset, mask, *geometry, call=call)
    output = xp.empty(a.output_shape, input.dtype)
    if output.size:
        call.launch("dcnv3_forward", problem, *a.arrays, output, a.shape)
    return output


def dcnv3_backward(
    grad_output: Array,
    input: Array,
    offset: Array,
    mask: Array,
    kernel_size: IntOrPair = 3,
    stride: IntOrPair = 1,
    padding: IntOrPair = 1,
    dilation: IntOrPair = 1,
    groups: int = 1,
    offset_scale: float = 1.0,
    remove_center: bool = False,
    call: Call | None = None,
) -> DCNv3Grads:
    """Return the gradients of sum(output * grad_output)."""
    xp, call = array_module(input), call or Call(input)
    a = DCNv3Arguments(input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center)
    problem = a.problem(call)
    idea = call.rung("dcnv3_backward", problem).idea
    # What is added up by atomics must be exact enough: all three gradients, grad_input alone, or none.
    by_atomics = {"1_atomic": 3, "6_deterministic": 0}.get(idea, 1)
    dtypes = [arithmetic(input.dtype)] * by_atomics + [input.dtype] * (3 - by_atomics)
    grads = [xp.zeros(array.shape, dtype) for array, dtype in zip((input, offset, mask), dtypes, strict=True)]
    if grad_output.size and idea == "6_deterministic":
        _gather(call, problem, a, aligned(grad_output), grads)
    elif grad_output.size:
        call.launch("dcnv3_backward", problem, aligned(grad_output), *a.arrays, *grads, a.shape)
    return DCNv3Grads(*(grad.astype(input.dtype, copy=False) for grad in grads))


def _gather(call: Call, problem: Problem, a: DCNv3Arguments, arriving: Array, grads: list[Array]) -> None:
    """Fill the gradients by rung 6: taps listed by cell, and the lists gathered. Workspace: an int a tap and cell."""
    xp = array_module(arriving)
    segments = problem.images * problem["groups"]
    starts = xp.zeros((segments, (problem["height"] + 1) * (problem["width"] + 1)), np.int32)
    lists = xp.empty((segments, problem["out_height"] * problem["out_width"] * problem["taps"]), np.int32)
    grad_input, grad_offset, grad_mask = grads
    taps = a.arrays[1:]

    def launch(part: str | None, *arguments: Any) -> None:
        call.launch("dcnv3_backward", problem, *arguments, a.shape, part=part)

    launch("taps", arriving, *a.arrays, grad_offset, grad_mask)
    launch("fill", *taps, starts, None)
    launch("scan", starts)
    launch("fill", *taps, starts, lists)
    launch("sort", starts, lists)
    launch(None, arriving, *taps, starts, lists, grad_input)


def deform_conv2d(
    input: Array,
    offset: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    mask: Array | None = None,
    call: Call | None = None,
) -> Array:
    """Return the deformable convolution of NCHW `input`; arguments as in `dcnlab.deform_conv2d`, not checked here."""
    call = call or Call(input)
    grid = sampling_grid(offset, weight.shape[2:], stride, padding, dilation, layout="deform_conv2d")
    shape = deform_conv2d_shape(input, weight, grid, stride, padding)
    rung = call.rung("deform_conv2d_forward", deform_conv2d_problem(call, shape, input.dtype))
    forward = {"1_naive": _forward_naive, "2_columns": _forward_columns, "3_fused": forward_fused}[rung.idea]
    output = forward(call, grid, shape, *_contiguous(input, offset, mask, weight, bias))
    return output.reshape(len(input), len(weight), *grid.output_size)


def deform_conv2d_backward(
    grad_output: Array,
    input: Array,
    offset: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    mask: Array | None = None,
    call: Call | None = None,
) -> DeformConv2dGrads:
    """Return the gradients of sum(output * grad_output)."""
    call = call or Call(input)
    grid = sampling_grid(offset, weight.shape[2:], stride, padding, dilation, layout="deform_conv2d")
    shape = deform_conv2d_shape(input, weight, grid, stride, padding)
    rung = call.rung("deform_conv2d_backward", deform_conv2d_problem(call, shape, input.dtype))
    backward = {"1_naive": _backward_naive, "2_columns": _backward_columns, "3_fused": backward_fused}[rung.idea]
    found = backward(call, grid, shape, *_contiguous(grad_output, input, offset, mask, weight))
    grad_input, grad_offset, grad_weight, grad_mask = (
        None if grad is None else grad.astype(input.dtype, copy=False) for grad in found
    )
    grad_bias = None
    if bias is not None:
        grad_bias = grad_output.sum(axis=(0, 2, 3), dtype=arithmetic(input.dtype)).astype(input.dtype, copy=False)
    return DeformConv2dGrads(grad_input, grad_offset, grad_weight, grad_bias, grad_mask)


# -- rung 1: a thread an output value ------------------------------------------------------------------------------


def _forward_naive(
    call: Call,
    grid: SamplingGrid,
    shape: np.ndarray,
    input: Array,
    offset: Array,
    mask: Array | None,
    weight: Array,
    bias: Array | None,
) -> Array:
    xp = array_module(input)
    output = xp.empty((len(input), len(weight), grid.pixel_count), input.dtype)
    if output.size:
        problem = call.problem(input.dtype, 1, len(weight) * grid.pixel_count, len(input), shape=shape)
        arguments = (input, offset, mask, weight, bias, xp.ascontiguousarray(grid.taps), output, shape)
        call.launch("deform_conv2d_forward", problem, *arguments)
    return output


def _backward_naive(
    call: Call,
    grid: SamplingGrid,
    shape: np.ndarray,
    grad_output: Array,
    input: Array,
    offset: Array,
    mask: Array | None,
    weight: Array,
) -> tuple[Array, Array, Array, Array | None]:
    xp, sums = array_module(input), arithmetic(input.dtype)
    grads = [xp.zeros(array.shape, sums) for array in (input, offset, weight)]
    # A kernel has a place for the mask's gradient even where there is no mask.
    grad_mask = xp.zeros(1 if mask is None else mask.shape, sums)
    if grad_output.size:
        problem = call.problem(input.dtype, 1, len(weight) * grid.pixel_count, len(input), shape=shape)
        arrays = (grad_output, input, offset, mask, weight, xp.ascontiguousarray(grid.taps))
        arguments = (*arrays, *grads, grad_mask, int(mask is not None), shape)
        call.launch("deform_conv2d_backward", problem, *arguments)
    return (*grads, None if mask is None else grad_mask)


# -- rung 2: columns, and the array library's matrix product -------------------------------------------------------


def _forward_columns(
    call: Call,
    grid: SamplingGrid,
    shape: np.ndarray,
    input: Array,
    offset: Array,
    mask: Array | None,
    weight: Array,
    bias: Array | None,
) -> Array:
    xp = array_module(input)
    output = xp.empty((len(input), len(weight), grid.pixel_count), input.dtype)
    work = _Columns(call, grid, shape, input, offset, mask)
    transposed = transposed_matrix(work.compute(weight), input.shape[1] // weight.shape[1])
    for image in range(len(input)):
        features = work.features(input[image])
        for pixels in work.parts():
            combined = combine(work.sample(features, image, pixels), transposed)  # (pixels, O)
            if bias is not None:
                combined += bias
            output[image, :, pixels] = combined.T
    return output


def _backward_columns(
    call: Call,
    grid: SamplingGrid,
    shape: np.ndarray,
    grad_output: Array,
    input: Array,
    offset: Array,
    mask: Array | None,
    weight: Array,
) -> tuple[Array, Array, Array, Array | None]:
    xp = array_module(input)
    work = _Columns(call, grid, shape, input, offset, mask)
    matrix = weight_matrix(work.compute(weight), input.shape[1] // weight.shape[1])
    grad_input, grad_matrix = xp.empty(input.shape, input.dtype), xp.zeros_like(matrix)
    grad_offset = xp.empty(offset.shape, work.dtype)
    grad_mask = None if mask is None else xp.empty(mask.shape, work.dtype)
    for image in range(len(input)):
        features = work.features(input[image])
        grad_features = xp.zeros_like(features)
        arriving = work.compute(grad_output[image]).reshape(len(weight), -1)
        for pixels in work.parts():
            arrived = arriving[:, pixels]
            grad_matrix += weight_gradient(arrived, work.sample(features, image, pixels), len(matrix))
            grad_columns = xp.ascontiguousarray(column_gradient(arrived, matrix, grid.tap_count))
            work.scatter(grad_columns, features, image, pixels, grad_features, grad_offset, grad_mask)
        grad_input[image] = grad_features.transpose(2, 0, 1)
    return grad_input, grad_offset, weight_from_matrix(grad_matrix, weight.shape), grad_mask


class _Columns:
    """Sampling a part of an image's output pixels into columns [pixel, tap, channel], and the way back.

    float16 is a format of storage: columns, products and sums are float32.
    """

    def __init__(
        self, call: Call, grid: SamplingGrid, shape: np.ndarray, input: Array, offset: Array, mask: Array | None
    ) -> None:
        limit_blas()
        # Both kernels are needed, whichever are preferred.
        self.call = call.with_rungs(deform_conv2d_forward="2_columns", deform_conv2d_backward="2_columns")
        self.grid, self.shape, self.dtype = grid, shape, arithmetic(input.dtype)
        self.xp, self.channels = array_module(input), input.shape[1]
        self.offset, self.mask = self.compute(offset), None if mask is None else self.compute(mask)
        self.taps = self.xp.ascontiguousarray(grid.taps)
        self.width = self.channels // grid.groups
        self.columns: Any = None

    def compute(self, array: Array) -> Array:
        """Return an array in the type of the arithmetic."""
        return array.astype(self.dtype, copy=False)

    def features(self, image: Array) -> Array:
        """Return an image (C, H, W) channels-last, in the type of the arithmetic."""
        channels, height, width = image.shape
        features = aligned_empty(self.xp, (height, width, channels), self.dtype)
        features[...] = image.transpose(1, 2, 0)
        return features

    def parts(self) -> list[slice]:
        """Return the output pixels of an image, cut up for the cache."""
        each = self.grid.tap_count * self.channels * self.dtype.itemsize
        return list(blocks(self.grid.pixel_count, each, max(COLUMN_BYTES, LEAST_PIXELS * each)))

    def sample(self, features: Array, image: int, pixels: slice) -> Array:
        """Return the columns (pixels, K, C) of some output pixels; overwritten by the next call."""
        count = pixels.stop - pixels.start
        if self.columns is None or len(self.columns) < count:
            self.columns = aligned_empty(self.xp, (count, self.grid.tap_count, self.channels), self.dtype)
        columns = self.columns[:count]
        problem = self.call.problem(self.dtype, self.width, count * self.grid.groups, shape=self.shape)
        arguments = (features, self.offset, self.mask, self.taps, columns, image, pixels.start, count, self.shape)
        self.call.launch("deform_conv2d_forward", problem, *arguments)
        return columns

    def scatter(
        self,
        grad_columns: Array,
        features: Array,
        image: int,
        pixels: slice,
        grad_features: Array,
        grad_offset: Array,
        grad_mask: Array | None,
    ) -> None:
        """Add the columns' gradient to that of the image, and write those of offset and mask."""
        count = pixels.stop - pixels.start
        problem = self.call.problem(self.dtype, self.width, count * self.grid.groups, shape=self.shape)
        arrays = (grad_columns, features, self.offset, self.mask, self.taps, grad_features, grad_offset, grad_mask)
        numbers = (image, pixels.start, count, self.shape)
        self.call.launch("deform_conv2d_backward", problem, *arrays, *numbers)


def _contiguous(*arrays: Array | None) -> list[Array | None]:
    return [None if array is None else array_module(array).ascontiguousarray(array) for array in arrays]
