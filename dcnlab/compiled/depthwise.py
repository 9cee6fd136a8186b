"""Depthwise convolution by kernels; signatures and results as in `dcnlab.reference.depthwise`."""

from __future__ import annotations

from typing import Any

import numpy as np

from dcnlab.arrays import Array, array_module, lies_channels_last
from dcnlab.compiled.calls import Call, refuse_too_many
from dcnlab.compiled.rung import arithmetic, width_for
from dcnlab.geometry import IntOrPair, output_size, pair
from dcnlab.reference.convolution import ConvGrads

DEPTHWISE_SHAPE = np.dtype(
    [(name, np.int32) for name in ("batch", "channels", "height", "width", "out_height", "out_width")]
    + [(name, np.int32) for name in ("kernel_height", "kernel_width", "stride_y", "stride_x")]
    + [(name, np.int32) for name in ("padding_y", "padding_x", "dilation_y", "dilation_x")],
    align=True,
)


def depthwise_conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    call: Call | None = None,
) -> Array:
    """Return the depthwise convolution of NCHW `input`; a view of NHWC memory gives such a view."""
    xp, call = array_module(input), call or Call(input)
    shape, size = _shape(input, weight, stride, padding, dilation)
    images, taps = _channels_last(input), _by_tap(weight)
    output = xp.empty((len(input), *size, input.shape[1]), input.dtype)
    if output.size:
        bias = None if bias is None else xp.ascontiguousarray(bias)
        _launch(call, "depthwise_conv2d_forward", size, images, taps, bias, output, shape)
    return _as_before(output, input)


def depthwise_conv2d_backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    call: Call | None = None,
) -> ConvGrads:
    """Return the gradients of sum(output * grad_output)."""
    xp, call, sums = array_module(input), call or Call(input), arithmetic(input.dtype)
    shape, _ = _shape(input, weight, stride, padding, dilation)
    images, taps, arriving = _channels_last(input), _by_tap(weight), _channels_last(grad_output)
    grad_input, grad_taps = xp.empty(images.shape, input.dtype), xp.zeros(taps.shape, sums)
    if grad_input.size:
        size = input.shape[2:]
        _launch(call, "depthwise_conv2d_backward", size, arriving, images, taps, grad_input, grad_taps, shape)
    grad_weight = xp.ascontiguousarray(grad_taps.transpose(2, 0, 1))[:, None]
    grad_bias = None if bias is None else arriving.sum(axis=(0, 1, 2), dtype=sums).astype(input.dtype, copy=False)
    return ConvGrads(_as_before(grad_input, input), grad_weight.astype(input.dtype, copy=False), grad_bias)


def _shape(
    input: Array, weight: Array, stride: IntOrPair, padding: IntOrPair, dilation: IntOrPair
) -> tuple[np.ndarray, tuple[int, int]]:
    """Return the record `DepthwiseShape` of kernels/include/depthwise.cuh, and the output's height and width."""
    n, channels, height, width = input.shape
    size = output_size((height, width), weight.shape[2:], stride, padding, dilation)
    refuse_too_many(max(height * width, size[0] * size[1]) * channels)
    steps = (*pair(stride, "stride", 1), *pair(padding, "padding", 0), *pair(dilation, "dilation", 1))
    return np.array((n, channels, height, width, *size, *weight.shape[2:], *steps), DEPTHWISE_SHAPE), size


def _launch(call: Call, operator: str, size: tuple[int, int], images: Array, *arguments: Any) -> None:
    """Launch a kernel with a thread for a run of pixels in each row of an image of `size`, and for some channels."""
    batch, channels = images.shape[0], images.shape[-1]
    parts = -(-channels // width_for(channels, images.dtype, call.target))
    call.launch(operator, call.problem(images.dtype, channels, size[1], batch, size[0] * parts), images, *arguments)


def _by_tap(weight: Array) -> Array:
    """Return (C, 1, kh, kw) as (kh, kw, C)."""
    return array_module(weight).ascontiguousarray(weight[:, 0].transpose(1, 2, 0))


def _channels_last(images: Array) -> Array:
    """Return NCHW images as contiguous NHWC ones, without a copy where they lie like that."""
    return array_module(images).ascontiguousarray(images.transpose(0, 2, 3, 1))


def _as_before(images: Array, like: Array) -> Array:
    """Return NHWC images as NCHW ones, which lie in memory like `like`."""
    view = images.transpose(0, 3, 1, 2)
    return view if lies_channels_last(like) else array_module(view).ascontiguousarray(view)
