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
    DeformConv2dArguments,
    aligned,
    aligned_empty,
)
from dcnlab.compiled.fused import backward_fused, forward_fused
from dcnlab.compiled.rung import Problem, arithmetic
from dcnlab.geometry import IntOrPair
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
    call = call or Call(input)
    a = DCNv3Arguments(input, offset, mask, kernel_size, stride, padding, dilation, groups, offset_scale, remove_center)
    return _dcnv3(call, a, a.problem(call))


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
    call = call or Call(input)
    geometry = (kernel_size, stride, padding, dilation, groups, offset_scale, remove_center)
    a = DCNv3Arguments(input, offset, logits, *geometry)
    problem = replace(a.problem(call), of_logits=True)
    if call.takes("dcnv3_forward", problem):
        return _dcnv3(call, a, problem)
    taps = logits.shape[-1] // groups
    mask = softmax(logits.reshape(*logits.shape[:-1], groups, taps), call=call).reshape(logits.shape)
    return dcnv3(input, offset, mask, *geometry, call=call)


def _dcnv3(call: Call, a: DCNv3Arguments, problem: Problem) -> Array:
    output = array_module(a.arrays[0]).empty(a.output_shape, a.arrays[0].dtype)
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
    a = DeformConv2dArguments(input, offset, weight, stride, padding, dilation, mask, call)
    rung = a.call.rung("deform_conv2d_forward", a.problem())
    forward = {"1_naive": _forward_naive, "2_columns": _forward_columns, "3_fused": forward_fused}[rung.idea]
    output = forward(a, None if bias is None else array_module(bias).ascontiguousarray(bias))
    return output.reshape(len(input), len(weight), *a.grid.output_size)


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
    a = DeformConv2dArguments(input, offset, weight, stride, padding, dilation, mask, call)
    rung = a.call.rung("deform_conv2d_backward", a.problem())
    backward = {"1_naive": _backward_naive, "2_columns": _backward_columns, "3_fused": backward_fused}[rung.idea]
    found = backward(a, array_module(grad_output).ascontiguousarray(grad_output))
    grad_input, grad_offset, grad_weight, grad_mask = (
        None if grad is None else grad.astype(input.dtype, copy=False) for grad in found
    )
    grad_bias = None
    if bias is not None:
        grad_bias = grad_output.sum(axis=(0, 2, 3), dtype=arithmetic(input.dtype)).astype(input.dtype, copy=False)
    return DeformConv2dGrads(grad_input, grad_offset, grad_weight, grad_bias, grad_mask)


# -- rung 1: a thread an output value ------------------------------------------------------------------------------


def _forward_naive(a: DeformConv2dArguments, bias: Array | None) -> Array:
    output = a.new_output()
    if output.size:
        arrays = (a.input, a.offset, a.mask, a.weight, bias, a.taps, output)
        a.call.launch("deform_conv2d_forward", _output_a_thread(a), *arrays, a.shape)
    return output


def _backward_naive(a: DeformConv2dArguments, grad_output: Array) -> tuple[Array, Array, Array, Array | None]:
    xp, sums = array_module(grad_output), arithmetic(a.input.dtype)
    grads = [xp.zeros(array.shape, sums) for array in (a.input, a.offset, a.weight)]
    # A kernel has a place for the mask's gradient even where there is no mask.
    grad_mask = xp.zeros(1 if a.mask is None else a.mask.shape, sums)
    if grad_output.size:
        arrays = (grad_output, a.input, a.offset, a.mask, a.weight, a.taps, *grads, grad_mask)
        a.call.launch("deform_conv2d_backward", _output_a_thread(a), *arrays, int(a.mask is not None), a.shape)
    return (*grads, None if a.mask is None else grad_mask)


def _output_a_thread(a: DeformConv2dArguments) -> Problem:
    return a.call.problem(a.input.dtype, 1, len(a.weight) * a.grid.pixel_count, len(a.input), shape=a.shape)


# -- rung 2: columns, and the array library's matrix product -------------------------------------------------------


def _forward_columns(a: DeformConv2dArguments, bias: Array | None) -> Array:
    output, work = a.new_output(), _Columns(a)
    transposed = transposed_matrix(work.compute(a.weight), a.conv_groups)
    for image in range(len(a.input)):
        features = work.features(a.input[image])
        for pixels in work.parts():
            combined = combine(work.sample(features, image, pixels), transposed)  # (pixels, O)
            if bias is not None:
                combined += bias
            output[image, :, pixels] = combined.T
    return output


def _backward_columns(a: DeformConv2dArguments, grad_output: Array) -> tuple[Array, Array, Array, Array | None]:
    xp, work = array_module(grad_output), _Columns(a)
    matrix = weight_matrix(work.compute(a.weight), a.conv_groups)
    grad_input, grad_matrix = xp.empty(a.input.shape, a.input.dtype), xp.zeros_like(matrix)
    grad_offset = xp.empty(a.offset.shape, work.dtype)
    grad_mask = None if a.mask is None else xp.empty(a.mask.shape, work.dtype)
    for image in range(len(a.input)):
        features = work.features(a.input[image])
        grad_features = xp.zeros_like(features)
        arriving = work.compute(grad_output[image]).reshape(len(a.weight), -1)
        for pixels in work.parts():
            arrived = arriving[:, pixels]
            grad_matrix += weight_gradient(arrived, work.sample(features, image, pixels), len(matrix))
            grad_columns = xp.ascontiguousarray(column_gradient(arrived, matrix, a.grid.tap_count))
            work.scatter(grad_columns, features, image, pixels, grad_features, grad_offset, grad_mask)
        grad_input[image] = grad_features.transpose(2, 0, 1)
    return grad_input, grad_offset, weight_from_matrix(grad_matrix, a.weight.shape), grad_mask


class _Columns:
    """Sampling a part of an image's output pixels into columns [pixel, tap, channel], and the way back.

    float16 is a format of storage: columns, products and sums are float32.
    """

    def __init__(self, a: DeformConv2dArguments) -> None:
        limit_blas()
        # Both kernels are needed, whichever are preferred.
        self.call = a.call.with_rungs(deform_conv2d_forward="2_columns", deform_conv2d_backward="2_columns")
        self.grid, self.shape, self.dtype = a.grid, a.shape, arithmetic(a.input.dtype)
        self.xp, self.channels = array_module(a.input), a.input.shape[1]
        self.offset, self.mask = self.compute(a.offset), None if a.mask is None else self.compute(a.mask)
        self.taps, self.width = a.taps, self.channels // a.grid.groups
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
