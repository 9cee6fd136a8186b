"""Depthwise convolution of NCHW images as they lie in memory.

DCNv3 works on channels-last arrays, its depthwise convolution on an NCHW view of them. Copying the view into NCHW
memory and back would take longer than the convolution, so that here it is computed on the channels-last array, and the
result is again a view of one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dcnlab.arrays import Array, array_module
from dcnlab.geometry import Pair, tap_positions
from dcnlab.ops import dense
from dcnlab.reference.convolution import ConvGrads


def depthwise_forward(
    input: Array, weight: Array, bias: Array | None, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return what `dcnlab.depthwise_conv2d` does, in the memory layout of `input`."""
    if not _lies_channels_last(input):
        return dense.depthwise_conv2d(input, weight, bias, stride, padding, dilation)
    shape = dense.require_depthwise("depthwise_conv2d", input, weight, bias, stride, padding, dilation)
    with np.errstate(all="ignore"):
        return _forward(input, weight, bias, _Taps(weight, stride, padding, dilation, shape))


def depthwise_backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    bias: Array | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> ConvGrads:
    """Return what `dcnlab.depthwise_conv2d_backward` does, in the memory layout of `input`."""
    if not _lies_channels_last(input):
        return dense.depthwise_conv2d_backward(grad_output, input, weight, bias, stride, padding, dilation)
    shape = dense.require_depthwise("depthwise_conv2d_backward", input, weight, bias, stride, padding, dilation)
    dense.require_grad_output("depthwise_conv2d_backward", grad_output, input, "(N, C, Ho, Wo)", shape)
    with np.errstate(all="ignore"):
        return _backward(grad_output, input, weight, bias, _Taps(weight, stride, padding, dilation, shape))


class _Taps:
    """The rows and columns of a padded image that each tap reads, and its weight for every output column."""

    def __init__(self, weight: Array, stride: Pair, padding: Pair, dilation: Pair, shape: tuple[int, ...]) -> None:
        self.stride, self.padding, (self.height, self.width) = stride, padding, shape[2:]
        self.starts = tap_positions(weight.shape[2:], dilation).tolist()
        self.weights = weight.reshape(len(weight), -1).T  # (K, C)

    def pad(self, image: Array) -> Array:
        """Return an (H, W, C) image with zeros around it."""
        (ph, pw), xp = self.padding, array_module(image)
        return xp.pad(image, ((ph, ph), (pw, pw), (0, 0)))

    def __iter__(self) -> Iterator[tuple[int, tuple[slice, slice], Array]]:
        (sy, sx), xp = self.stride, array_module(self.weights)
        for tap, (y, x) in enumerate(self.starts):
            where = slice(y, y + sy * (self.height - 1) + 1, sy), slice(x, x + sx * (self.width - 1) + 1, sx)
            # Repeated for every column, the inner loop runs over a whole row instead of over one pixel's channels.
            yield tap, where, xp.tile(self.weights[tap], (self.width, 1))


def _forward(input: Array, weight: Array, bias: Array | None, taps: _Taps) -> Array:
    xp = array_module(input)
    images = input.transpose(0, 2, 3, 1)
    output = xp.zeros((len(images), taps.height, taps.width, len(weight)), input.dtype)
    product = xp.empty(output.shape[1:], input.dtype)
    for image, result in zip(images, output, strict=True):
        padded = taps.pad(image)
        for _, where, weights in taps:
            xp.multiply(padded[where], weights, out=product)
            result += product
    if bias is not None:
        output += bias
    return output.transpose(0, 3, 1, 2)


def _backward(grad_output: Array, input: Array, weight: Array, bias: Array | None, taps: _Taps) -> ConvGrads:
    xp = array_module(input)
    (ph, pw), (height, width) = taps.padding, input.shape[2:]
    images, grads = input.transpose(0, 2, 3, 1), grad_output.transpose(0, 2, 3, 1)
    grad_input, grad_weights = xp.empty(images.shape, input.dtype), xp.zeros(taps.weights.shape, input.dtype)
    product = xp.empty(grads.shape[1:], input.dtype)
    for image, arriving, result in zip(images, grads, grad_input, strict=True):
        padded = taps.pad(image)
        grad_padded = xp.zeros_like(padded)
        for tap, where, weights in taps:
            xp.multiply(arriving, weights, out=product)
            grad_padded[where] += product
            grad_weights[tap] += xp.einsum("yxc,yxc->c", padded[where], arriving)
        result[...] = grad_padded[ph : ph + height, pw : pw + width]
    return ConvGrads(
        input=grad_input.transpose(0, 3, 1, 2),
        weight=xp.ascontiguousarray(grad_weights.T).reshape(weight.shape),
        bias=None if bias is None else grads.sum(axis=(0, 1, 2)),
    )


def _lies_channels_last(input: Array) -> bool:
    """Whether an NCHW array is a view of a contiguous NHWC one."""
    return getattr(input, "ndim", 0) == 4 and input.transpose(0, 2, 3, 1).flags.c_contiguous
