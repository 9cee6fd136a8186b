"""Columns times weights: what regular and deformable convolution share once the samples are taken.

Columns are (pixels, K, C), taps outermost, all channels of a tap together. With conv groups the channels fall into
equal slices, each with its own outputs; the product is then a batch of matrix products, one a group.
"""

from __future__ import annotations

import math

from dcnlab.arrays import Array, array_module


def weight_matrix(weight: Array, groups: int) -> Array:
    """Return weights (O, C/groups, kh, kw) as matrices (groups, O/groups, K*C/groups), in the order of columns."""
    xp = array_module(weight)
    out, per_group, kh, kw = weight.shape
    split = weight.reshape(groups, out // groups, per_group, kh * kw)
    return xp.ascontiguousarray(split.swapaxes(2, 3)).reshape(groups, out // groups, kh * kw * per_group)


def weight_from_matrix(matrix: Array, shape: tuple[int, ...]) -> Array:
    """Return matrices made by `weight_matrix` as weights of the given shape (O, C/groups, kh, kw)."""
    groups, out, _ = matrix.shape
    split = matrix.reshape(groups, out, math.prod(shape[2:]), shape[1])
    return array_module(matrix).ascontiguousarray(split.swapaxes(2, 3)).reshape(shape)


def transposed_matrix(weight: Array, groups: int) -> Array:
    """Return the same transposed, (groups, K*C/groups, O/groups): BLAS multiplies by it about 4 % faster."""
    out, per_group, kh, kw = weight.shape
    split = weight.reshape(groups, out // groups, per_group, kh * kw)
    return split.transpose(0, 3, 2, 1).reshape(groups, kh * kw * per_group, out // groups)


def combine(columns: Array, transposed: Array) -> Array:
    """Return the outputs (pixels, O) of columns (pixels, K, C): sums over taps and channels of w * u [eq:deform.2].

    `transposed` is `transposed_matrix(weight, groups)`.
    """
    outputs = _by_group(columns, len(transposed)) @ transposed  # (groups, pixels, O/groups)
    return outputs.swapaxes(0, 1).reshape(len(columns), -1)


def weight_gradient(grad_output: Array, columns: Array, groups: int) -> Array:
    """Return the gradient of `weight_matrix(weight, groups)` from grad_output (O, pixels) and columns [eq:deform.3]."""
    return grad_output.reshape(groups, -1, len(columns)) @ _by_group(columns, groups)


def column_gradient(grad_output: Array, matrix: Array, taps: int) -> Array:
    """Return the gradient of the columns, (pixels, K, C), from grad_output (O, pixels) and the weight matrix."""
    groups, pixels = len(matrix), grad_output.shape[1]
    grad = grad_output.reshape(groups, -1, pixels).swapaxes(1, 2) @ matrix  # (groups, pixels, K*C/groups)
    return grad.reshape(groups, pixels, taps, -1).transpose(1, 2, 0, 3).reshape(pixels, taps, -1)


def _by_group(columns: Array, groups: int) -> Array:
    """Return columns as (groups, pixels, K*C/groups); a view when there is one group."""
    pixels, taps, channels = columns.shape
    split = columns.reshape(pixels, taps, groups, channels // groups).transpose(2, 0, 1, 3)
    return split.reshape(groups, pixels, -1)
