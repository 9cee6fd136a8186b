"""Deformable convolution by kernels that sample inside the matrix product: nothing of the columns lies in memory."""

from __future__ import annotations

import numpy as np

from dcnlab.arrays import Array, array_module
from dcnlab.compiled.calls import Call, aligned_empty, deform_conv2d_problem
from dcnlab.compiled.fused_rungs import channel_slice, weight_parts
from dcnlab.compiled.rung import arithmetic
from dcnlab.geometry import SamplingGrid
from dcnlab.reference.combine import transposed_matrix, weight_from_matrix, weight_matrix


def forward_fused(
    call: Call,
    grid: SamplingGrid,
    shape: np.ndarray,
    input: Array,
    offset: Array,
    mask: Array | None,
    weight: Array,
    bias: Array | None,
) -> Array:
    """Return the outputs (N, O, pixels); all arrays are contiguous."""
    xp = array_module(input)
    output = xp.empty((len(input), len(weight), grid.pixel_count), input.dtype)
    if output.size:
        problem = deform_conv2d_problem(call, shape, input.dtype)
        matrix = xp.ascontiguousarray(transposed_matrix(weight, input.shape[1] // weight.shape[1]))
        taps = xp.ascontiguousarray(grid.taps)
        arrays = (channels_last(input), offset, mask, matrix, bias, taps, output)
        call.launch("deform_conv2d_forward", problem, *arrays, channel_slice(problem), shape)
    return output


def backward_fused(
    call: Call,
    grid: SamplingGrid,
    shape: np.ndarray,
    grad_output: Array,
    input: Array,
    offset: Array,
    mask: Array | None,
    weight: Array,
) -> tuple[Array, Array, Array, Array | None]:
    """Return the gradients of input, offset, weight and mask; all arrays are contiguous."""
    xp, sums = array_module(input), arithmetic(input.dtype)
    image = channels_last(input)
    grad_image, grad_offset = xp.zeros(image.shape, sums), xp.zeros(offset.shape, offset.dtype)
    grad_mask = None if mask is None else xp.zeros(mask.shape, mask.dtype)
    grad_weight = xp.zeros(weight.shape, sums)
    if grad_output.size:
        problem = deform_conv2d_problem(call, shape, input.dtype)
        matrix = weight_matrix(weight, input.shape[1] // weight.shape[1])
        arrays = (grad_output, image, offset, mask, matrix, xp.ascontiguousarray(grid.taps))
        grads = (grad_image, grad_offset, grad_mask)
        call.launch("deform_conv2d_backward", problem, *arrays, *grads, channel_slice(problem), shape)
        grad_weight = weight_gradient(call, grid, shape, grad_output, image, offset, mask, weight.shape)
    return grad_image.transpose(0, 3, 1, 2), grad_offset, grad_weight, grad_mask


def weight_gradient(
    call: Call,
    grid: SamplingGrid,
    shape: np.ndarray,
    grad_output: Array,
    image: Array,
    offset: Array,
    mask: Array | None,
    weight_shape: tuple[int, ...],
) -> Array:
    """Return the gradient of weights (O, C/groups, kh, kw); `image` is that of `channels_last`."""
    xp, problem = array_module(image), deform_conv2d_problem(call, shape, image.dtype)
    parts, each = weight_parts(problem)
    groups = image.shape[3] // weight_shape[1]
    matrix = (groups, weight_shape[1] * grid.tap_count, weight_shape[0] // groups)  # (groups, K*C/groups, O/groups)
    sums = xp.empty((parts, *matrix), arithmetic(image.dtype))
    arrays = (grad_output, image, offset, mask, xp.ascontiguousarray(grid.taps), sums)
    call.launch("deform_conv2d_weight_backward", problem, *arrays, channel_slice(problem), each, shape)
    return weight_from_matrix(sums.sum(axis=0).swapaxes(1, 2), weight_shape)


def channels_last(images: Array) -> Array:
    """Return images (N, C, H, W) as new (N, H, W, C), where vectors can be loaded."""
    n, channels, height, width = images.shape
    image = aligned_empty(array_module(images), (n, height, width, channels), images.dtype)
    image[...] = images.transpose(0, 2, 3, 1)
    return image
