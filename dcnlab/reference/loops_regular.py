"""The executable specification of the operators that do not deform: convolution, linear layer, modulations."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from dcnlab.arrays import Array
from dcnlab.geometry import IntOrPair, output_size
from dcnlab.reference.convolution import ConvGrads
from dcnlab.reference.dense import LinearGrads
from dcnlab.reference.loops import integers

# -- regular convolution and the linear layer --------------------------------------------------------------------


def conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> Array:
    """Regular convolution: the taps stand on pixels, or outside on zeros."""
    n_out = len(weight)
    size = output_size(input.shape[2:], weight.shape[2:], stride, padding, dilation)
    output = np.zeros((len(input), n_out, *size), input.dtype)
    for n, o, oy, ox in np.ndindex(output.shape):
        total = 0.0 if bias is None else bias[o]
        for c_in_group, j, i, (c, y, x) in _conv_terms(input, weight, o, oy, ox, stride, padding, dilation):
            total += weight[o, c_in_group, j, i] * input[n, c, y, x]
        output[n, o, oy, ox] = total
    return output


def conv2d_backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> ConvGrads:
    """Each product weight * pixel sends its gradient to both factors."""
    grad_input, grad_weight = np.zeros_like(input), np.zeros_like(weight)
    for n, o, oy, ox in np.ndindex(grad_output.shape):
        g_out = grad_output[n, o, oy, ox]
        for c_in_group, j, i, (c, y, x) in _conv_terms(input, weight, o, oy, ox, stride, padding, dilation):
            grad_input[n, c, y, x] += g_out * weight[o, c_in_group, j, i]
            grad_weight[o, c_in_group, j, i] += g_out * input[n, c, y, x]
    return ConvGrads(grad_input, grad_weight, None if bias is None else grad_output.sum(axis=(0, 2, 3)))


def depthwise_conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> Array:
    """A convolution with one channel a group."""
    return conv2d(input, weight, bias, stride, padding, dilation)


def depthwise_conv2d_backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> ConvGrads:
    """Likewise."""
    return conv2d_backward(grad_output, input, weight, bias, stride, padding, dilation)


def linear(input: Array, weight: Array, bias: Array | None = None) -> Array:
    """y_o = b_o + sum over i of w_oi x_i."""
    output = np.zeros((*input.shape[:-1], len(weight)), input.dtype)
    for at in np.ndindex(output.shape):
        *row, o = at
        total = 0.0 if bias is None else bias[o]
        for i in range(weight.shape[1]):
            total += weight[o, i] * input[(*row, i)]
        output[at] = total
    return output


def linear_backward(grad_output: Array, input: Array, weight: Array, bias: Array | None = None) -> LinearGrads:
    """Each product w_oi x_i sends its gradient to both factors."""
    grad_input, grad_weight = np.zeros_like(input), np.zeros_like(weight)
    grad_bias = None if bias is None else np.zeros_like(bias)
    for at in np.ndindex(grad_output.shape):
        *row, o = at
        for i in range(weight.shape[1]):
            grad_input[(*row, i)] += grad_output[at] * weight[o, i]
            grad_weight[o, i] += grad_output[at] * input[(*row, i)]
        if grad_bias is not None:
            grad_bias[o] += grad_output[at]
    return LinearGrads(grad_input, grad_weight, grad_bias)


def _conv_terms(
    input: Array,
    weight: Array,
    o: int,
    oy: int,
    ox: int,
    stride: IntOrPair,
    padding: IntOrPair,
    dilation: IntOrPair,
) -> Iterator[tuple[int, int, int, tuple[int, int, int]]]:
    """Yield, for one output value, the index of each weight and the pixel (channel, y, x) it multiplies."""
    _, channels, height, width = input.shape
    n_out, per_group, kh, kw = weight.shape
    sh, sw, ph, pw, dh, dw = integers(stride, padding, dilation)
    group = o // (n_out // (channels // per_group))
    for c in range(per_group):
        for j in range(kh):
            for i in range(kw):
                y, x = oy * sh - ph + j * dh, ox * sw - pw + i * dw
                if 0 <= y < height and 0 <= x < width:
                    yield c, j, i, (group * per_group + c, y, x)


# -- modulation --------------------------------------------------------------------------------------------------


def softmax(input: Array, axis: int = -1) -> Array:
    """m_k = exp(z_k) / sum over j of exp(z_j), the largest logit subtracted first."""
    rows = np.moveaxis(input, axis, -1)
    output = np.empty_like(rows)
    for at in np.ndindex(rows.shape[:-1]):
        largest = max(rows[at])
        powers = [math.exp(z - largest) for z in rows[at]]
        for k, power in enumerate(powers):
            output[(*at, k)] = power / sum(powers)
    return np.moveaxis(output, -1, axis)


def softmax_backward(grad_output: Array, input: Array, axis: int = -1) -> Array:
    """Sum over the Jacobian: d m_j / d z_k = m_j * ((j == k) - m_k)."""
    m, g = np.moveaxis(softmax(input, axis), axis, -1), np.moveaxis(grad_output, axis, -1)
    grad = np.zeros_like(m)
    for at in np.ndindex(m.shape[:-1]):
        for j in range(m.shape[-1]):
            for k in range(m.shape[-1]):
                grad[(*at, k)] += g[(*at, j)] * m[(*at, j)] * (float(j == k) - m[(*at, k)])
    return np.moveaxis(grad, -1, axis)


def sigmoid(input: Array) -> Array:
    """1 / (1 + exp(-z)), written so that exp never overflows."""
    output = np.empty_like(input)
    for at in np.ndindex(input.shape):
        power = math.exp(-abs(input[at]))
        output[at] = (1 if input[at] >= 0 else power) / (1 + power)
    return output


def sigmoid_backward(grad_output: Array, input: Array) -> Array:
    """The slope of the sigmoid is s (1 - s)."""
    grad, s = np.empty_like(input), sigmoid(input)
    for at in np.ndindex(input.shape):
        grad[at] = grad_output[at] * s[at] * (1 - s[at])
    return grad


def twice_sigmoid(input: Array) -> Array:
    """2 / (1 + exp(-z))."""
    return 2 * sigmoid(input)


def twice_sigmoid_backward(grad_output: Array, input: Array) -> Array:
    """2 s (1 - s)."""
    return 2 * sigmoid_backward(grad_output, input)
