"""Deformable convolution by kernels that sample inside the matrix product: nothing of the columns lies in memory."""

from __future__ import annotations

import numpy as np

from dcnlab.arrays import Array, array_module
from dcnlab.compiled.calls import Call, DeformConv2dArguments, aligned_empty, deform_conv2d_problem
from dcnlab.compiled.fused_rungs import channel_slice, weight_parts
from dcnlab.compiled.rung import arithmetic
from dcnlab.geometry import SamplingGrid
from dcnlab.reference.combine import transposed_matrix, weight_from_matrix, weight_matrix


def forward_fused(a: DeformConv2dArguments, bias: Array | None) -> Array:
    """Return the outputs (N, O, pixels)."""
    output = a.new_output()
    if output.size:
        problem = a.problem()
        matrix = array_module(output).ascontiguousarray(transposed_matrix(a.weight, a.conv_groups))
        arrays = (channels_last(a.input), a.offset, a.mask, matrix, bias, a.taps, output)
        a.call.launch("deform_conv2d_forward", problem, *arrays, channel_slice(problem), a.shape)
    return output


def backward_fused(a: DeformConv2dArguments, grad_output: Array) -> tuple[Array, Array, Array, Array | None]:
    """Return the gradients of input, offset, weight and mask."""
    xp, sums = array_module(grad_output), arithmetic(a.input.dtype)
    image = channels_last(a.input)
    grad_image, grad_offset = xp.zeros(image.shape, sums), xp.zeros_like(a.offset)
    grad_mask = None if a.mask is None else xp.zeros_like(a.mask)
    grad_weight = xp.zeros(a.weight.shape, sums)
    if grad_output.size:
        problem = a.problem()
        arrays = (grad_output, image, a.offset, a.mask, weight_matrix(a.weight, a.conv_groups), a.taps)
        grads = (grad_image, grad_offset, grad_mask)
        a.call.launch("deform_conv2d_backward", problem, *arrays, *grads, channel_slice(problem), a.shape)
        grad_weight = weight_gradient(a.call, a.grid, a.shape, grad_output, image, a.offset, a.mask, a.weight.shape)
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
