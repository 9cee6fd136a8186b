"""Depthwise convolution of NCHW images as they lie in memory, forward and backward.

DCNv3 works on channels-last arrays, its depthwise convolution on an NCHW view of them. Copying the view into NCHW
memory and back would take longer than the convolution, so that such a view is computed on as the channels-last array
it is, and the result is again a view of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dcnlab.arrays import Array, array_module, lies_channels_last
from dcnlab.geometry import IntOrPair, output_size, pair, tap_positions
from dcnlab.reference.convolution import ConvGrads


def depthwise_conv2d(
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> Array:
    """Return the depthwise convolution of NCHW `input` [eq:depthwise.1]; arguments as in `dcnlab.depthwise_conv2d`."""
    xp, taps = array_module(input), _Taps(input, weight, stride, padding, dilation)
    output = xp.zeros(taps.output_shape, input.dtype)
    product = xp.empty(output.shape[1:], input.dtype)
    for image, result in zip(taps.as_it_lies(input), output, strict=True):
        for _, weights, here, there in taps:
            xp.multiply(image[there], weights, out=product[here])
            result[here] += product[here]
    output = taps.nchw(output)
    if bias is not None:
        output += bias[:, None, None]
    return output


def depthwise_conv2d_backward(
    grad_output: Array,
    input: Array,
    weight: Array,
    bias: Array | None = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
) -> ConvGrads:
    """Return the gradients of sum(output * grad_output)."""
    xp, taps = array_module(input), _Taps(input, weight, stride, padding, dilation)
    images, grads = taps.as_it_lies(input), taps.as_it_lies(grad_output)
    grad_input, grad_weights = xp.zeros(images.shape, input.dtype), xp.zeros(taps.weights.shape, input.dtype)
    product = xp.empty(grads.shape[1:], input.dtype)
    for image, arriving, result in zip(images, grads, grad_input, strict=True):
        for tap, weights, here, there in taps:
            xp.multiply(arriving[here], weights, out=product[here])
            result[there] += product[here]
            grad_weights[tap] += xp.einsum(taps.channel_sums, image[there], arriving[here])
    return ConvGrads(
        input=taps.nchw(grad_input),
        weight=xp.ascontiguousarray(grad_weights.T).reshape(weight.shape),
        bias=None if bias is None else grad_output.sum(axis=(0, 2, 3)),
    )


class _Taps:
    """The outputs that each tap has a pixel for, and these pixels: slices of an image of the output and of the input.

    What lies outside the image is left out, not multiplied by 0: neither weight nor gradient need be finite.
    """

    def __init__(self, input: Array, weight: Array, stride: IntOrPair, padding: IntOrPair, dilation: IntOrPair) -> None:
        self.channels_last = lies_channels_last(input)
        self.channel_sums = "yxc,yxc->c" if self.channels_last else "cyx,cyx->c"
        self.size, self.input_size = (
            output_size(input.shape[2:], weight.shape[2:], stride, padding, dilation),
            input.shape,
        )
        self.stride = pair(stride, "stride", 1)
        self.starts = (tap_positions(weight.shape[2:], dilation) - pair(padding, "padding", 0)).tolist()
        self.weights = weight.reshape(len(weight), -1).T  # (K, C)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The output as it lies in memory."""
        n, channels = self.input_size[:2]
        return (n, *self.size, channels) if self.channels_last else (n, channels, *self.size)

    def as_it_lies(self, array: Array) -> Array:
        """Return an NCHW array with its axes in the order of the input's memory."""
        return array.transpose(0, 2, 3, 1) if self.channels_last else array

    def nchw(self, array: Array) -> Array:
        """Undo `as_it_lies`."""
        return array.transpose(0, 3, 1, 2) if self.channels_last else array

    def __iter__(self) -> Iterator[tuple[int, Array, tuple[Any, ...], tuple[Any, ...]]]:
        """Yield number, weights, outputs and pixels of each tap."""
        xp = array_module(self.weights)
        for tap, start in enumerate(self.starts):
            cuts = [self._cut(axis, start[axis]) for axis in (0, 1)]
            here, there = (tuple(cut[i] for cut in cuts) for i in (0, 1))
            if not self.channels_last:
                yield tap, self.weights[tap][:, None, None], (..., *here), (..., *there)
            else:
                # Repeated for every column, the inner loop runs over a row instead of over one pixel's channels.
                yield tap, xp.tile(self.weights[tap], (here[1].stop - here[1].start, 1)), here, there

    def _cut(self, axis: int, start: int) -> tuple[slice, slice]:
        """Return the outputs o for which start + stride * o is a pixel, and these pixels."""
        stride, length = self.stride[axis], self.input_size[2 + axis]
        first = max(0, -(start // stride))
        stop = max(first, min(self.size[axis], -(-(length - start) // stride)))
        pixel = start + stride * first
        return slice(first, stop), slice(pixel, pixel + stride * (stop - first), stride)
