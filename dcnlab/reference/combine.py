"""Columns times weights: what regular and deformable convolution share once the samples are taken.

Columns are (pixels, K, C), taps outermost, all channels of a tap together. With conv groups the channels fall into
equal slices, each with its own outputs; the product is then a batch of matrix products, one a group.
"""

from __future__ import annotations

import math

from dcnlab.arrays import Array, array_module


def weight_matrix(weight: Array, groups: int) -> Array:
    """Return weights (O, C/groups, kh, kw) as matrices (groups, K*C/groups, O/groups), in the order of columns."""
    xp = array_module(weight)
    out, per_group, kh, kw = weight.shape
    split = weight.reshape(groups, out // groups, per_group, kh * kw)
    return xp.ascontiguousarray(split.transpose(0, 3, 2, 1)).reshape(groups, kh * kw * per_group, out // groups)


def weight_from_matrix(matrix: Array, shape: tuple[int, ...]) -> Array:
    """Return matrices made by `weight_matrix` as weights of the given shape (O, C/groups, kh, kw)."""
    groups, _, out = matrix.shape
    split = matrix.reshape(groups, math.prod(shape[2:]), shape[1], out)
    return array_module(matrix).ascontiguousarray(split.transpose(0, 3, 2, 1)).reshape(shape)


def combine(columns: Array, matrix: Array) -> Array:
    """Return the outputs (O, pixels) of columns (pixels, K, C): y_o = sum over taps and channels of w * column."""
    grouped = _by_group(columns, len(matrix))
    return (matrix.swapaxes(1, 2) @ grouped.swapaxes(1, 2)).reshape(-1, len(columns))


def combine_backward(grad_output: Array, columns: Array, matrix: Array, grad_matrix: Array) -> Array:
    """Return the gradient of the columns and add that of the weights to `grad_matrix`.

    Parameters
    ----------
    grad_output : (O, pixels)
    columns : (pixels, K, C)
    matrix, grad_matrix : (groups, K*C/groups, O/groups)

    Returns
    -------
    (pixels, K, C)
    """
    groups, pixels, taps = len(matrix), len(columns), columns.shape[1]
    arriving = grad_output.reshape(groups, -1, pixels)
    grad_matrix += _by_group(columns, groups).swapaxes(1, 2) @ arriving.swapaxes(1, 2)
    grad_grouped = arriving.swapaxes(1, 2) @ matrix.swapaxes(1, 2)  # (groups, pixels, K*C/groups)
    grad = grad_grouped.reshape(groups, pixels, taps, -1).transpose(1, 2, 0, 3)
    return grad.reshape(columns.shape)


def _by_group(columns: Array, groups: int) -> Array:
    """Return columns as (groups, pixels, K*C/groups); a view when there is one group."""
    pixels, taps, channels = columns.shape
    split = columns.reshape(pixels, taps, groups, channels // groups).transpose(2, 0, 1, 3)
    return split.reshape(groups, pixels, -1)
